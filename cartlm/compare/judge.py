"""Judging a change: which metrics of two commits differ by more than their noise, and for better or worse."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from cartlm.compare import drift, notes, significance
from cartlm.compare import tolerances as judgement
from cartlm.compare.drift import Drift, Shift
from cartlm.compare.load import ParamChange, Side
from cartlm.compare.rules import ACCURACY, OF_MACHINE, TESTED, Rule, judged, other_machine, place
from cartlm.errors import UserError
from cartlm.evaluation.paired import Difference, against_f16, mcnemar_differences, pair_outcomes
from cartlm.evaluation.statistics import ALPHA, Pairs, wilson
from cartlm.pipeline import dvc_lock, stale

OTHER_DATA = "made from other rows (data/ in dvc.lock)"
OTHER_ROWS = "the test rows differ (data/test.jsonl in dvc.lock): nothing is paired"
Verdict = Literal["worse", "better", "not comparable", "removed", "added", "no change"]
ORDER: tuple[Verdict, ...] = ("worse", "better", "not comparable", "removed", "added", "no change")


@dataclass(frozen=True)
class Change:
    """One metric of one variant on both sides; None is what one side lacks."""

    target: str  # `accuracy`, or a folder under metrics/bench/
    variant: str
    metric: str
    kind: str
    old: float | None
    new: float | None
    change: float | None  # of shares the difference, of everything else relative to the old value
    verdict: Verdict
    why: str
    paired: Difference | None = None
    shared: Shift | None = None  # what the other variants did of which nothing changed
    withdrawn: bool = False  # a change by its own numbers, but not beside those of the others


@dataclass(frozen=True)
class Evidence:
    """What a change is judged by, beside its own two numbers."""

    tolerances: Mapping[str, float]
    unpaired: Mapping[str, str]  # variant -> why its outcomes are of other rows
    other_rows: str | None  # why nothing that rests on the test rows compares, whatever has no outcomes
    other_data: Mapping[str, str]  # file -> why what its stage computed from rows does not compare
    tested: Mapping[str, Difference]  # variant -> its outcomes of both sides, row by row
    controls: Drift  # the machine's own share in timings
    alone: significance.Adjusted  # p-values of timings by themselves
    beside: significance.Adjusted  # and beside the controls


@dataclass(frozen=True)
class Comparison:
    """All that `cartlm compare` found."""

    old: str
    new: str
    changes: list[Change]  # accuracy first, then by target; in each, what became worse first
    params: list[ParamChange] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    against_f16: list[Difference] = field(default_factory=list)  # the quantized variants of the new side
    variants: list[str] = field(default_factory=list)  # in the order of params.yaml
    stale: stale.Report | None = None  # of the new side, where it is what is checked out
    lost: list[Change] = field(default_factory=list)  # removed, and nothing explains it

    @property
    def regression(self) -> bool:
        """Whether anything became worse, or is gone that would have told."""
        return bool(self.having("worse") or self.lost)

    def having(self, verdict: Verdict) -> list[Change]:
        return [change for change in self.changes if change.verdict == verdict]


def compare(
    old: Side,
    new: Side,
    tolerances: Mapping[str, float],
    params: Sequence[ParamChange] = (),
    variants: Sequence[str] = (),
    asked: stale.Report | None = None,
    left: Collection[str] = (),
) -> Comparison:
    """Judge every metric that RULES names.

    `tolerances` are those of the old side; `variants` gives their order, others follow by name; `left` are names that only
    the old side's params.yaml has. `asked` is what DVC says of the new side, where it can be asked; what dvc.lock's hashes
    say of it is then no note.
    """
    unpaired = unpaired_variants(old, new)
    tested = {
        variant: pair_outcomes(old.outcomes[variant], new.outcomes[variant])
        for variant in sorted(old.outcomes.keys() & new.outcomes.keys() - unpaired.keys())
    }
    controls = drift.measured(old, new)
    evidence = Evidence(
        tolerances,
        unpaired,
        OTHER_ROWS if OTHER_ROWS in unpaired.values() else None,
        {file: OTHER_DATA for file in new.metrics if dvc_lock.reads_other_data(old.stages, new.stages, file)},
        {each.variant: each for each in mcnemar_differences(tested)},
        controls,
        significance.p_values(old, new, None),
        significance.p_values(old, new, controls),
    )
    if asked:
        new = replace(new, outdated={})
    changes = [
        change
        for file in sorted(old.metrics.keys() | new.metrics.keys())
        for change in of_file(file, old.metrics.get(file, {}), new.metrics.get(file, {}), evidence)
    ]
    rank = {variant: i for i, variant in enumerate(variants)}

    def by_variant(variant: str) -> tuple[int, str]:
        return rank.get(variant, len(rank)), variant

    changes.sort(
        key=lambda it: (
            it.target != ACCURACY, it.target, ORDER.index(it.verdict), by_variant(it.variant), it.metric,
        )
    )  # fmt: skip
    lost = list(judgement.lost(changes, old, new, left, params))
    said = [*judgement.loosened(params, new.name), *judgement.told(lost, new.name)]
    said += [*notes.about(old, new, unpaired), *notes.of_the_machine(changes, controls, tolerances)]
    said += [*notes.of_the_code(old, new), *notes.torn(old), *notes.torn(new)]
    ours = [variant for variant in new.outcomes if not rank or variant in rank]  # no servers
    ordered = {variant: new.outcomes[variant] for variant in sorted(ours, key=by_variant)}
    return Comparison(
        old.name,
        new.name,
        changes,
        list(params),
        said,
        against_f16(ordered),
        list(variants),
        asked,
        lost,
    )


def of_file(
    file: str, before: Mapping[str, Any], after: Mapping[str, Any], evidence: Evidence
) -> Iterator[Change]:
    """The judged metrics of one file."""
    target, variant = place(file)
    if not target:
        return
    for key, kind, better in judged(before, after, target):
        rule = Rule(kind, better, evidence.tolerances[kind])
        reason = not_comparable(variant, key, kind, before, after, evidence)
        if kind == "loss" or file == "metrics/merge.json":
            reason = reason or (evidence.other_data.get(file) if kind in ("loss", ACCURACY) else None)
        paired = evidence.tested.get(variant) if (target, key) == (ACCURACY, TESTED) else None
        verdict, change, why = judge(
            before, after, key, rule, reason, paired, evidence.alone.get((file, key))
        )
        shared = evidence.controls.of(target, variant, key)
        withdrawn = False
        if shared and verdict in ("worse", "better"):
            less = drift.without(shared, after, key)
            beside, _, said = judge(before, less, key, rule, p=evidence.beside.get((file, key)))
            # A change that is the opposite beside the others is none either: its two numbers do not show it.
            if withdrawn := beside != verdict:
                said = said if beside == "no change" else f"but {beside}"
                verdict, why = "no change", f"{said} {shared.words}"
        values = before.get(key), after.get(key)
        name = key.removeprefix(f"{target}.")
        yield Change(target, variant, name, kind, *values, change, verdict, why, paired, shared, withdrawn)


def not_comparable(
    variant: str,
    key: str,
    kind: str,
    before: Mapping[str, Any],
    after: Mapping[str, Any],
    evidence: Evidence,
) -> str | None:
    """Why two values are no comparison: another machine, another meter, other rows; None where they are one."""
    if kind in OF_MACHINE and (reason := other_machine(before, after)):
        return reason
    if kind == "energy":
        return other_meter(before, after, key)
    if kind != ACCURACY:
        return None
    own_rows = f"{key.rpartition('.')[0]}.rows" in before.keys() & after.keys()
    reason = None
    if not own_rows and variant not in evidence.tested:
        # Parity and a card's kernels rest on the test rows, as all do, and have no outcomes of their own.
        reason = evidence.unpaired.get(variant) or evidence.other_rows
    return reason or other_rows(before, after, key)


def judge(
    before: Mapping[str, Any],
    after: Mapping[str, Any],
    key: str,
    rule: Rule,
    not_comparable: str | None = None,
    paired: Difference | None = None,
    p: float | None = None,
) -> tuple[Verdict, float | None, str]:
    """Verdict, change and reason of one metric: beyond its tolerance, and beyond what chance explains.

    `p` is of a timing with rounds, adjusted; without it and `paired`, the intervals must not overlap.
    """
    old, new = before.get(key), after.get(key)
    if old is None or new is None:
        return ("added", None, "only the new side has it") if old is None else ("removed", None, "gone")
    change = paired.pairs.difference if paired else difference(old, new, rule.kind)
    if not_comparable:
        return "not comparable", change, not_comparable
    if paired is None and old == new:
        return "no change", 0.0, "equal"
    if change is not None and abs(change) <= rule.tolerance:
        return "no change", change, f"within the tolerance of {rule.tolerance:g}"
    if paired:
        if paired.p_adjusted >= ALPHA:
            return "no change", change, f"not significant (adjusted p {paired.p_adjusted:.2f})"
        why = f"beyond {rule.tolerance:g}, adjusted p {paired.p_adjusted:.2g}"
    elif p is not None:
        if p >= ALPHA:
            return "no change", change, f"not significant (adjusted p {p:.2g})"
        why = f"beyond {rule.tolerance:g}, adjusted p " + (f"{p:.2g}" if p else "below 1e-300")
    else:
        first, second = interval(before, key, rule.kind), interval(after, key, rule.kind)
        if first and second and first[0] <= second[1] and second[0] <= first[1]:
            return "no change", change, "the intervals overlap"
        why = f"beyond {rule.tolerance:g}" + (
            ", and the intervals do not overlap" if first and second else ""
        )
    improved = (new > old) == (rule.better == "higher") if not paired else paired.pairs.difference > 0
    return ("better" if improved else "worse"), change, why


def difference(old: float, new: float, kind: str) -> float | None:
    """Of shares new - old, of everything else relative to the old value; None from 0 to something."""
    if kind == ACCURACY:
        return new - old
    return (new - old) / old if old else (0.0 if new == old else None)


def interval(values: Mapping[str, Any], key: str, kind: str) -> tuple[float, float] | None:
    """The interval that stands beside a value, of a share the Wilson interval from the `n` of its section."""
    low, high = values.get(f"{key}_low"), values.get(f"{key}_high")
    if low is not None and high is not None:
        return low, high
    section = key.rpartition(".")[0]
    n = values.get(f"{section}.n" if section else "n")
    return wilson(round(values[key] * n), n) if kind == ACCURACY and n else None


def other_rows(before: Mapping[str, Any], after: Mapping[str, Any], key: str) -> str | None:
    """Why shares of a section do not compare: it rests on other rows, or on another number of them."""
    section = key.rpartition(".")[0]
    counts = [(name, "another number of rows") for name in ("n", "n_accuracy")]
    for name, words in (("rows", "other rows"), *counts):
        both = before.get(f"{section}.{name}".lstrip(".")), after.get(f"{section}.{name}".lstrip("."))
        if None not in both and both[0] != both[1]:
            return f"{words}: {both[0]}, then {both[1]}"
    return None


def other_meter(before: Mapping[str, Any], after: Mapping[str, Any], key: str) -> str | None:
    """Why two energies do not compare: one is measured, the other estimated, or estimated from other watts."""
    section = key.rpartition(".")[0]
    for name in ("energy_kind", "energy_source"):
        first, second = (side.get(f"{section}.{name}".lstrip(".")) for side in (before, after))
        if first != second:
            return f"{first} before, {second} after"
        if first == "measured":  # by whichever counter this machine has
            return None
    return None


def unpaired_variants(old: Side, new: Side) -> dict[str, str]:
    """Variants whose outcomes on both sides are of different rows, and why; ids alone do not tell rows apart."""
    found = {}
    for variant in sorted(old.outcomes.keys() & new.outcomes.keys()):
        rows = old.rows.get(variant), new.rows.get(variant)
        if rows[0] and rows[1] and rows[0] != rows[1]:
            found[variant] = OTHER_ROWS
            continue
        try:
            pair_outcomes(old.outcomes[variant], new.outcomes[variant])
        except ValueError as error:
            if rows[0] and rows[0] == rows[1]:  # then a file is broken, and what it hides could be a loss
                path = f"{dvc_lock.OUTCOMES}/{variant}.csv"
                raise UserError(
                    f"{path} of {old.name} and {new.name} are of the same test rows by dvc.lock, but {error}",
                    f"git log -- {path}",
                ) from None
            found[variant] = f"the test rows differ: {error}: nothing is paired"
    return found


def as_json(found: Comparison) -> dict[str, Any]:
    """The comparison as plain values for a JSON file."""
    return {
        "old": found.old,
        "new": found.new,
        "worse": len(found.having("worse")),
        "lost": len(found.lost),
        "better": len(found.having("better")),
        "notes": found.notes,
        "params": [{name: _json(value) for name, value in vars(change).items()} for change in found.params],
        "changes": [
            {
                **vars(change),
                "paired": _plain(change.paired) if change.paired else None,
                "shared": change.shared.change if change.shared else None,
            }
            for change in found.changes
        ],
        "stale": stale.as_json(found.stale) if found.stale else None,
        "variants_against_f16": [_plain(each) for each in found.against_f16],
    }


def _json(value: Any) -> Any:
    """A param as JSON has it: the infinities and NaN of YAML as text."""
    if isinstance(value, list):
        return [_json(each) for each in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _plain(each: Difference) -> dict[str, Any]:
    pairs: Pairs = each.pairs
    return {
        "variant": each.variant,
        "n": pairs.n,
        "difference": pairs.difference,
        "low": each.low,
        "high": each.high,
        "lost": pairs.lost,
        "won": pairs.won,
        "p": each.p,
        "p_adjusted": each.p_adjusted,
    }
