"""The fitted reader: one file of weights, and the intent of a message by them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from cartlm.baseline import actions
from cartlm.baseline.matching import Matcher, best_of, score
from cartlm.baseline.quantities import best_number, numbers
from cartlm.errors import UserError
from cartlm.files import write_text
from cartlm.task.intent import Intent

FORMAT = 1
"""Of the file; a file of another one is refused, as its features mean something else."""


@dataclass(frozen=True)
class Weights:
    """What was learned from the training rows; `cartlm.baseline.fit` makes it.

    `frame`: words that name no product. `common`: words that tell something of a number beside them. `numbers`: phrase ->
    (quantity, share of its rows that have it). `product`, `quantity`, `action`: feature -> weight; a message is `remove`
    where its action score is above `threshold`.
    """

    frame: frozenset[str]
    common: frozenset[str]
    numbers: Mapping[str, tuple[int, float]]
    product: Mapping[str, float]
    quantity: Mapping[str, float]
    action: Mapping[str, float]
    threshold: float


def write(path: Path, weights: Weights) -> None:
    """Write the file: the same weights give the same bytes."""
    values = {"format": FORMAT, **asdict(weights)}
    for name, value in values.items():
        if isinstance(value, frozenset):
            values[name] = sorted(value)
    write_text(path, json.dumps(values, indent=0, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n")


def load(path: Path) -> Weights:
    """The weights of a file. Raises FileNotFoundError, and UserError for a file that `write` did not write."""
    try:
        return _parse(path.read_bytes())
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        what = f"{path} is no baseline of this version: {type(error).__name__}: {error}"
        raise UserError(what, "dvc repro -f -s baseline") from None


def _parse(data: bytes) -> Weights:
    values = json.loads(data)
    if values.pop("format") != FORMAT:
        raise ValueError(f"it has not the format {FORMAT}")
    if unknown := values.keys() ^ {field.name for field in fields(Weights)}:
        raise ValueError(f"unknown or missing: {', '.join(sorted(unknown))}")
    return Weights(
        frame=frozenset(values["frame"]),
        common=frozenset(values["common"]),
        numbers={str(name): (int(value), float(share)) for name, (value, share) in values["numbers"].items()},
        product=_floats(values["product"]),
        quantity=_floats(values["quantity"]),
        action=_floats(values["action"]),
        threshold=float(values["threshold"]),
    )


def _floats(values: Mapping[str, float]) -> dict[str, float]:
    return {str(name): float(value) for name, value in values.items()}


def read(weights: Weights, catalog: Sequence[str], message: str) -> Intent:
    """The intent of a message over a catalog of at least one line."""
    matcher = Matcher(catalog, message, weights.frame)
    candidates = matcher.candidates()
    place = best_of(candidates, weights.product)
    spoken = numbers(matcher, candidates[place], weights.numbers, weights.common)
    quantity = best_number(spoken, weights.quantity).value
    frame = actions.frame_of(matcher, candidates[place].mention, spoken)
    remove = score(actions.features(frame), weights.action) > weights.threshold
    return Intent("remove" if remove else "add", catalog[place], quantity)
