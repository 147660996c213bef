"""Sizes of the splits that fit the rows: what to set where there are fewer than asked for."""

from __future__ import annotations

from dataclasses import dataclass

from cartlm.data.config import Data


@dataclass(frozen=True)
class Pool:
    """How many rows there are: for training, those of them that validation may draw, and what was given beside."""

    rows: int  # without a near-duplicate in the given test or validation
    free: int  # of these without a near-duplicate among the others
    validation: int | None = None  # None: drawn from the rows
    test: int | None = None  # None: the validation rows


@dataclass(frozen=True)
class Sizes:
    """How many rows each split has."""

    train: int
    validation: int
    calibration: int
    test: int

    def words(self) -> str:
        """As params.yaml has them."""
        return ", ".join(f"data.{name}: {count}" for name, count in vars(self).items())


def fitting(data: Data, pool: Pool) -> Sizes | None:
    """The sizes asked for, each as much smaller as the rows want; None where there is nothing to train or validate on.

    Where the rows are too few for both, training and validation keep the ratio that was asked for.
    """
    drawn = pool.validation is None
    validation = min(data.validation, pool.free if drawn else pool.validation or 0)
    if drawn and data.train + validation > pool.rows:
        share = pool.rows * data.validation // (data.train + data.validation)
        validation = min(validation, max(1, share))
    train = min(data.train, pool.rows - (validation if drawn else 0))
    if train < 1 or validation < 1:
        return None
    return Sizes(
        train,
        validation,
        min(data.calibration, train),
        validation if pool.test is None else min(data.test, pool.test),
    )


def missing(data: Data, pool: Pool) -> str:
    """Why the sizes asked for do not fit, in words; empty where they do."""
    drawn = pool.validation is None
    wanted = data.train + (data.validation if drawn else 0)
    if pool.rows < wanted:
        asked = f"data.train + data.validation = {wanted}" if drawn else f"data.train={data.train}"
        return f"fewer than {asked}"
    if drawn and pool.free < data.validation:
        return f"but only {pool.free} without a near-duplicate among the others, fewer than data.validation={data.validation}"
    if data.calibration > data.train:
        return f"but data.calibration={data.calibration} is more than data.train={data.train}"
    return ""
