"""The search: which mixes are tried, what each loses, and what was found.

A mix loses nothing where its exact match on the validation rows is at most `tolerance` points below that of the F16 model
on the same rows: the paired difference itself is judged, and its 95 % interval (Newcombe) shown, which says how much these
rows cannot exclude. Test rows are never read, so that a found mix can be measured on them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cartlm.errors import UserError
from cartlm.evaluation.answers import evenly_spaced
from cartlm.evaluation.paired import signed_points
from cartlm.evaluation.statistics import Pairs, newcombe
from cartlm.files import write_text
from cartlm.quantization import gguf, imatrix
from cartlm.quantization.config import Gguf
from cartlm.quantization_search import space
from cartlm.quantization_search.space import Mix
from cartlm.quantization_search.trials import Asking, Trials, Try
from cartlm.task.rows import Row

NAME = "mix"
"""What the found variant is called in the lines for params.yaml."""


@dataclass(frozen=True)
class Order:
    """What to search: the F16 file, types to try (none: by the widths of the model), and what counts as no loss."""

    source: Path
    kinds: Sequence[str]
    tolerance: float  # percentage points
    with_imatrix: bool
    folder: Path  # journal and work


@dataclass(frozen=True)
class Found:
    """The smallest mix, its try, and all tries in their order, the F16 model first."""

    variant: Gguf
    best: Try
    tries: list[Try]

    @property
    def caution(self) -> str:
        """What the rows cannot exclude of the mix, which was chosen among many by them."""
        low, _ = newcombe(self.best.against(self.tries[0]))
        return f"these rows do not exclude a loss of {signed_points(max(0.0, -low)).lstrip('+')} points: measure it on the test rows, with make repro"

    @property
    def params_lines(self) -> str:
        return space.params_lines(NAME, self.variant)


def choose_rows(rows: Sequence[Row], limit: int | None) -> list[Row]:
    """`limit` evenly spaced rows, all without one. Raises UserError for more than there are."""
    if limit is not None and limit > len(rows):
        raise UserError(f"--limit {limit}: there are {len(rows)} validation rows", "a smaller --limit")
    return [rows[at] for at in evenly_spaced(len(rows), len(rows) if limit is None else limit)]


def search(order: Order, asking: Asking, calibration: Sequence[Row], say: Callable[[str], object]) -> Found:
    """Search, with a line for each mix through `say`. What an earlier run has tried is taken from its journal.

    Raises UserError for a source that is no F16 file, where no type fits, and where even the largest mix loses something.
    """
    order.source.stat()  # raises FileNotFoundError
    groups = space.find_groups(gguf.inspect_gguf(order.source), order.kinds)
    matrix = None
    if order.with_imatrix:
        pairs = [(row.prompt, row.completion) for row in calibration]
        say(f"importance matrix of {len(pairs)} calibration rows")
        matrix = imatrix.build_imatrix(
            order.source, pairs, asking.separator, order.folder / "imatrix", asking.threads
        )
    trials = Trials(order.source, matrix, asking, order.folder)
    first = trials.reference()
    tries, kept = [first], dict[str, Try]()
    say(f"F16: {_figures(first)}")

    def loses_nothing(mix: dict[str, str]) -> bool:
        one = trials.quantized(space.variant(mix, groups, order.with_imatrix))
        tries.append(one)
        pairs = one.against(first)
        good = is_no_loss(pairs, order.tolerance)
        say(f"{mix_text(mix)}: {_figures(one)}, {points(pairs)} points, {'kept' if good else 'loses'}")
        if good:
            kept[mix_text(mix)] = one
        return good

    mix = space.walk(groups, loses_nothing)
    if mix is None:
        lost = points(tries[-1].against(first))
        what = f"even {mix_text(tries[-1].types)} differs by {lost} points from F16"
        raise UserError(what, "the same with a larger --tolerance, or types with more bits")
    return Found(space.variant(mix, groups, order.with_imatrix), kept[mix_text(mix)], tries)


def is_no_loss(pairs: Pairs, tolerance: float) -> bool:
    """The criterion; `tolerance` in percentage points."""
    return 100 * (pairs.lost - pairs.won) <= tolerance * pairs.n + 1e-9


def mix_text(mix: Mix) -> str:
    """The groups by type: `Q6_K token_embd, Q4_K attn_q attn_k`."""
    by_type: dict[str, list[str]] = {}
    for name, kind in mix.items():
        by_type.setdefault(kind, []).append(name)
    if len(by_type) == 1:
        return f"{next(iter(by_type))} everywhere"
    ordered = sorted(by_type, key=lambda kind: -space.bits_per_weight(kind))
    return ", ".join(f"{kind} {' '.join(by_type[kind])}" for kind in ordered)


def points(pairs: Pairs) -> str:
    """The paired difference with its interval."""
    low, high = newcombe(pairs)
    return f"{signed_points(pairs.difference)} [{signed_points(low)}, {signed_points(high)}]"


def _figures(one: Try) -> str:
    return f"{one.size_mib:,.3f} MiB, {one.bits_per_weight:.2f} bits per weight, exact match {one.exact_match:.4f}"


def write_result(path: Path, order: Order, asking: Asking, found: Found) -> None:
    """All tries and the mix as a JSON file. Raises OSError on a full disk."""
    first = found.tries[0]
    values: dict[str, Any] = {
        "rows": {"split": "validation", "n": len(asking.rows)},
        "decoding": asking.way,
        **({"none": True} if asking.none else {}),
        "imatrix": order.with_imatrix,
        "tolerance_points": order.tolerance,
        "found": {"params": found.variant.model_dump(exclude_defaults=True), **found.best.as_json(first)},
        "tries": [one.as_json(first) for one in found.tries],
    }
    write_text(path, json.dumps(values, indent=2, ensure_ascii=False) + "\n")
