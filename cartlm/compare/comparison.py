"""The result of comparing two commits."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic_core import to_json

from cartlm.compare.load import ParamChange
from cartlm.evaluation.paired import Difference
from cartlm.pipeline import stale

Verdict = Literal["worse", "better", "not comparable", "removed", "added", "no change"]
ORDER: tuple[Verdict, ...] = ("worse", "better", "not comparable", "removed", "added", "no change")


@dataclass(frozen=True)
class Change:
    """One metric of one variant on both sides; None is what one side lacks."""

    target: str  # `accuracy`, `models`, or a folder under metrics/bench/
    variant: str
    metric: str
    kind: str
    old: float | None
    new: float | None
    # of shares the difference, else relative; of timings relative to the reference model too
    change: float | None
    verdict: Verdict
    why: str
    paired: Difference | None = None
    reference: float | None = None  # what the same timing of the reference model did


@dataclass(frozen=True)
class Comparison:
    """All that `cartlm compare` shows."""

    old: str
    new: str
    changes: list[Change]  # accuracy first, then by target; in each, what became worse first
    params: list[ParamChange] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    against_f16: list[Difference] = field(default_factory=list)  # the quantized variants of the new side
    variants: list[str] = field(default_factory=list)  # in the order of params.yaml
    stale: stale.Report | None = None  # of the new side, if it is checked out
    lost: list[Change] = field(default_factory=list)  # removed without an explanation
    studies: dict[str, Comparison] = field(default_factory=dict)  # those that differ, by name
    lost_studies: list[str] = field(default_factory=list)  # gone, although their preset is still there

    @property
    def regression(self) -> bool:
        """Whether anything became worse, or a number is gone that could show it."""
        worse = self.having("worse") or self.lost or self.lost_studies
        return bool(worse) or any(each.regression for each in self.studies.values())

    def having(self, verdict: Verdict) -> list[Change]:
        return [change for change in self.changes if change.verdict == verdict]


def as_json(comparison: Comparison) -> dict[str, Any]:
    """The comparison as plain values for a JSON file; text for what JSON cannot write, as YAML's infinities and dates."""
    values = {
        "old": comparison.old,
        "new": comparison.new,
        "worse": len(comparison.having("worse")),
        "lost": len(comparison.lost),
        "better": len(comparison.having("better")),
        "notes": comparison.notes,
        "params": comparison.params,
        "changes": [{**vars(change), "paired": _plain(change.paired)} for change in comparison.changes],
        "stale": comparison.stale,
        "variants_against_f16": [_plain(each) for each in comparison.against_f16],
        "lost_studies": comparison.lost_studies,
        "studies": {name: as_json(each) for name, each in comparison.studies.items()},
    }
    return json.loads(to_json(values, inf_nan_mode="strings"))


def _plain(each: Difference | None) -> dict[str, Any] | None:
    if each is None:
        return None
    pairs = each.pairs
    counts = {"n": pairs.n, "difference": pairs.difference, "lost": pairs.lost, "won": pairs.won}
    return {name: value for name, value in vars(each).items() if name != "pairs"} | counts
