"""The order of rows: every row once, like lengths together, the same for the same seed and epoch."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from cartlm.training.trainer import LengthGroupedSampler, epoch_order

LENGTHS = st.lists(st.integers(1, 500), min_size=1, max_size=200)


@given(LENGTHS, st.integers(1, 20), st.integers(0, 9), st.integers(0, 5))
def test_every_row_comes_once(lengths: list[int], batch: int, seed: int, epoch: int) -> None:
    order = epoch_order(lengths, batch, seed, epoch)
    assert sorted(order) == list(range(len(lengths)))
    assert order == epoch_order(lengths, batch, seed, epoch)


def test_epochs_and_seeds_differ() -> None:
    lengths = [random.Random(0).randint(50, 400) for _ in range(200)]
    orders = {tuple(epoch_order(lengths, 16, seed, epoch)) for seed in (1, 2) for epoch in (0, 1, 2)}
    assert len(orders) == 6


def test_batches_hold_rows_of_like_length() -> None:
    generator = random.Random(0)
    lengths = [generator.randint(50, 400) for _ in range(2700)]

    def padded(order: list[int]) -> float:
        batches = [order[at : at + 16] for at in range(0, len(order), 16)]
        return sum(len(batch) * max(lengths[row] for row in batch) for batch in batches) / sum(lengths)

    assert padded(epoch_order(lengths, 16, 7, 0)) < 1.08
    assert padded(generator.sample(range(2700), 2700)) > 1.4


def test_the_sampler_follows_the_epoch() -> None:
    sampler = LengthGroupedSampler(list(range(100, 140)), 4, 7)
    first = list(sampler)
    assert list(sampler) == first == epoch_order(sampler.lengths, 4, 7, 0)
    sampler.set_epoch(3)
    assert list(sampler) == epoch_order(sampler.lengths, 4, 7, 3) != first
    assert len(sampler) == 40
