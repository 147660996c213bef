"""Which metrics of two commits differ by more than noise, and whether for better or worse."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cartlm.bench.rounds import REFERENCE, Key
from cartlm.compare import notes, rules
from cartlm.compare.comparison import ORDER, Change, Comparison, Verdict
from cartlm.compare.load import ParamChange, Side, load_side, param_changes, tolerances_of
from cartlm.compare.rules import (
    ACCURACY,
    ANYWHERE,
    OF_MACHINE,
    TESTED,
    TIMED,
    beside,
    judged_metrics,
    other_machine,
)
from cartlm.compare.timings import LOST, OTHER_REFERENCE, TimingChange, compare_rounds
from cartlm.errors import UserError
from cartlm.evaluation.paired import Difference, against_f16, mcnemar_differences, pair_outcomes
from cartlm.evaluation.statistics import ALPHA, Pairs, wilson
from cartlm.pipeline import dvc_lock, stale
from cartlm.pipeline.repository import is_checked_out
from cartlm.text import few

OTHER_ROWS = "the test rows differ (data/test.jsonl in dvc.lock): nothing is paired"
Timings = dict[tuple[str, str, str], TimingChange | str]
"""By target, variant and key; text is why it is not comparable."""


@dataclass(frozen=True)
class Evidence:
    """What a change is judged by, besides its own two numbers."""

    old: Side
    new: Side
    tolerances: Mapping[str, float]
    tested: Mapping[str, Difference]  # variant -> its outcomes of both sides, row by row
    unpaired: Mapping[str, str]  # variant -> why its outcomes are of other rows
    timings: Timings


def compare_commits(root: Path, old: str, new: str | None) -> Comparison:
    """Compare commit `old` with commit `new`, or with the workspace if that is None, by the tolerances of `old`."""
    before, after = load_side(root, old), load_side(root, new)
    tolerances, missing = tolerances_of(before)
    report = stale.find_stale(root) if is_checked_out(root, new) else None
    comparison = compare_sides(before, after, tolerances, report)
    comparison.notes[:0] = missing + notes.own_code_changes(root, old, new, after.name)
    studies, lost, about = compare_studies(before, after, tolerances)
    return replace(comparison, studies=studies, lost_studies=lost, notes=[*comparison.notes, *about])


def compare_studies(
    old: Side, new: Side, tolerances: Mapping[str, float]
) -> tuple[dict[str, Comparison], list[str], list[str]]:
    """The studies of both sides that differ; those that are gone although their preset is there; notes on one-sided ones."""
    both = {name: (one, new.studies[name]) for name, one in old.studies.items() if name in new.studies}
    differ = {
        name: (one, other) for name, (one, other) in both.items() if replace(one, name=other.name) != other
    }
    gone, added = (
        sorted(one.studies.keys() - other.studies.keys()) for one, other in ((old, new), (new, old))
    )
    texts = {"no longer in results/": gone, "only now in results/": added}
    about = [f"studies {what}: {few(names, 8)}." for what, names in texts.items() if names]
    compared = {name: compare_sides(one, other, tolerances) for name, (one, other) in differ.items()}
    return compared, [name for name in gone if name in new.presets], about


def compare_sides(
    old: Side, new: Side, tolerances: Mapping[str, float], report: stale.Report | None = None
) -> Comparison:
    """Judge every metric that RULES names.

    `report` is what DVC reports of the new side, if it is checked out; the hashes in dvc.lock then give no note.
    """
    paired, unpaired = pair_sides(old, new)
    tested = {each.variant: each for each in mcnemar_differences(paired)}
    evidence = Evidence(old, new, tolerances, tested, unpaired, timing_changes(old, new))
    variants = variant_names(new)

    def by_verdict(change: Change) -> tuple[Any, ...]:
        verdict, variant = ORDER.index(change.verdict), change.variant
        rank = variants.index(variant) if variant in variants else len(variants)
        return change.target != ACCURACY, change.target, verdict, rank, variant, change.metric

    files = sorted(old.metrics.keys() | new.metrics.keys())
    changes = sorted((change for file in files for change in judge_file(file, evidence)), key=by_verdict)
    params = param_changes(old, new)
    lost = list(lost_metrics(changes, old, new, params))
    texts = [
        *notes.less_strict_params(params, new.name),
        *notes.lost_notes(lost, new.name),
        *notes.measurement_notes(old, new, unpaired),
        *notes.reference_notes(changes, tolerances),
        *notes.code_notes(old, replace(new, outdated={}) if report else new),
        *notes.inconsistent_metrics(old),
        *notes.inconsistent_metrics(new),
    ]
    ours = [name for name in variants if name in new.outcomes] if variants else sorted(new.outcomes)
    quantized = against_f16({variant: new.outcomes[variant] for variant in ours})  # no servers
    return Comparison(old.name, new.name, changes, params, texts, quantized, variants, report, lost)


def variant_names(side: Side) -> list[str]:
    """The variants that a side's params.yaml lists, in its order."""
    return [str(name) for section in ("reference", "gguf", "gptq") for name in side.section(section)]


def timing_changes(old: Side, new: Side) -> Timings:
    """The timings that both sides measured on one machine, relative to the reference model.

    The reference's own are among them only if its engine changed: that would divide out of all others.
    """

    def sections_of(file: str, section: str) -> list[dict[str, Any]]:
        """The keys of one section of a metrics file, on both sides."""
        files = (side.metrics.get(file, {}) for side in (old, new))
        return [{key: file[key] for key in file if key.startswith(f"{section}.")} for file in files]

    keys: dict[str, list[Key]] = {}
    for file in sorted(old.metrics.keys() & new.metrics.keys()):
        target, variant = rules.target_and_variant(file)
        before, after = old.metrics[file], new.metrics[file]
        engines = sections_of(file, "engine")
        if target in ("", *ANYWHERE) or other_machine(before, after):
            continue
        if variant == REFERENCE and engines[0] == engines[1]:
            continue
        same_rounds = old.rounds.get(target) == new.rounds.get(target)
        for key, kind, _ in judged_metrics(before, after):
            equal = same_rounds and before.get(key) == after.get(key)  # not measured again
            if kind in TIMED and key in before and key in after and not equal:
                keys.setdefault(target, []).append((variant, key))
    timings: Timings = {}
    for target, of_target in keys.items():
        models = sections_of(f"metrics/bench/{target}/{REFERENCE}.json", REFERENCE)
        found: Mapping[Key, TimingChange | str] = dict.fromkeys(of_target, OTHER_REFERENCE)
        if not all(models) or models[0] == models[1]:
            found = compare_rounds(old.rounds.get(target, {}), new.rounds.get(target, {}), of_target)
        timings |= {(target, *key): change for key, change in found.items()}
    return timings


def judge_file(file: str, evidence: Evidence) -> Iterator[Change]:
    """The judged metrics of one file."""
    target, variant = rules.target_and_variant(file)
    before, after = (side.metrics.get(file, {}) for side in (evidence.old, evidence.new))
    for key, kind, better in judged_metrics(before, after) if target else ():
        timing = evidence.timings.get((target, variant, key))
        if variant == REFERENCE and before and after and timing is None:
            continue
        reason = not_comparable(file, key, kind, evidence) or (timing if isinstance(timing, str) else None)
        moved = timing if isinstance(timing, TimingChange) and not reason else None
        paired = evidence.tested.get(variant) if (target, key) == (ACCURACY, TESTED) else None
        old, new = before.get(key), after.get(key)
        change: float | None = None
        verdict: Verdict
        if old is None or new is None or reason == LOST:
            verdict, why = ("added" if old is None else "removed"), reason or "only one side has it"
        else:
            p: float | None = None
            change = new - old
            if change and kind != ACCURACY:
                change = change / old if old else None
            if paired:
                change, p = paired.pairs.difference, paired.p_adjusted
            elif moved:
                change, p = moved.change, moved.p
            tolerance = evidence.tolerances[kind]
            if reason:
                verdict, why = "not comparable", reason
            elif p is None and old == new:
                verdict, why = "no change", "equal"
            elif change is not None and abs(change) <= tolerance:
                verdict, why = "no change", f"within the tolerance of {tolerance:g}"
            elif p is not None and p >= ALPHA:
                verdict, why = "no change", f"not significant (adjusted p {p:.2g})"
            elif p is None and overlap(interval(before, key, kind), interval(after, key, kind)):
                verdict, why = "no change", "the intervals overlap"
            else:
                higher = change > 0 if change is not None else new > old
                verdict = "better" if higher == (better == "higher") else "worse"
                why = f"beyond {tolerance:g}" + ("" if p is None else f", adjusted p {p:.2g}")
        name, reference = key.removeprefix(f"{target}."), moved.reference if moved else None
        yield Change(target, variant, name, kind, old, new, change, verdict, why, paired, reference)


def not_comparable(file: str, key: str, kind: str, evidence: Evidence) -> str | None:
    """Why two values do not compare: another machine, another meter, other rows; None if they do."""
    old, new = evidence.old, evidence.new
    before, after = old.metrics.get(file, {}), new.metrics.get(file, {})
    if kind in OF_MACHINE and (reason := other_machine(before, after)):
        return reason
    if before.get("model.sha256") != after.get("model.sha256"):
        return "measured on another model file"
    if kind == "energy":
        return other_meter(before, after, key)
    of_data = kind == "loss" or file == "metrics/merge.json"
    if of_data and dvc_lock.reads_other_data(old.stages, new.stages, file):
        return "made from other rows (data/ in dvc.lock)"
    if kind != ACCURACY:
        return None
    variant = rules.target_and_variant(file)[1]
    own_rows = None not in (beside(before, key, "rows"), beside(after, key, "rows"))
    if variant not in evidence.tested and not own_rows:
        # Parity and a card's kernels rest on the test rows and have no outcomes of their own.
        of_all = OTHER_ROWS if OTHER_ROWS in evidence.unpaired.values() else None
        if reason := evidence.unpaired.get(variant, of_all):
            return reason
    return other_rows(before, after, key)


def interval(values: Mapping[str, Any], key: str, kind: str) -> tuple[float, float] | None:
    """The published interval of a value; of a share without one, Wilson's from the `n` of its section."""
    low, high, n = values.get(f"{key}_low"), values.get(f"{key}_high"), beside(values, key, "n")
    if low is not None and high is not None:
        return low, high
    return wilson(round(values[key] * n), n) if kind == ACCURACY and n else None


def overlap(first: tuple[float, float] | None, second: tuple[float, float] | None) -> bool:
    return bool(first and second and first[0] <= second[1] and second[0] <= first[1])


def other_rows(before: Mapping[str, Any], after: Mapping[str, Any], key: str) -> str | None:
    """Why shares of a section do not compare: other rows, or another number of them."""
    for name in ("rows", "n", "n_accuracy"):
        first, then = beside(before, key, name), beside(after, key, name)
        if None not in (first, then) and first != then:
            return f"{'other rows' if name == 'rows' else 'another number of rows'}: {first}, then {then}"
    return None


def other_meter(before: Mapping[str, Any], after: Mapping[str, Any], key: str) -> str | None:
    """Why two energies do not compare: one is measured, the other estimated, or estimated from other watts."""
    for name in ("energy_kind", "energy_source"):
        first, then = beside(before, key, name), beside(after, key, name)
        if first != then:
            return f"{first} before, {then} after"
        if first == "measured":  # by whichever counter this machine has
            return None
    return None


def pair_sides(old: Side, new: Side) -> tuple[dict[str, Pairs], dict[str, str]]:
    """The outcomes that both sides have of a variant, paired row by row, or why they are of other rows.

    Equal ids do not mean equal rows.
    """
    paired: dict[str, Pairs] = {}
    unpaired: dict[str, str] = {}
    for variant in sorted(old.outcomes.keys() & new.outcomes.keys()):
        rows = old.rows.get(variant), new.rows.get(variant)
        if all(rows) and rows[0] != rows[1]:
            unpaired[variant] = OTHER_ROWS
            continue
        try:
            paired[variant] = pair_outcomes(old.outcomes[variant], new.outcomes[variant])
        except ValueError as error:
            if all(rows):  # then a file is broken, and could hide a loss
                path = f"{dvc_lock.OUTCOMES}/{variant}.csv"
                what = f"{path} of {old.name} and {new.name} are of the same test rows by dvc.lock"
                raise UserError(f"{what}, but {error}", f"git log -- {path}") from None
            unpaired[variant] = f"the test rows differ: {error}: nothing is paired"
    return paired, unpaired


UNLISTED = ("merge", "parity", REFERENCE)
"""What has metrics without being listed in params.yaml."""


def lost_metrics(
    changes: Sequence[Change], old: Side, new: Side, params: Sequence[ParamChange]
) -> Iterator[Change]:
    """Removed metrics without an explanation: the new params.yaml does not list the variant, another machine lacks a meter, or
    the new side left them out as too noisy."""
    before, after = ({*variant_names(side), *map(str, side.section("remote"))} for side in (old, new))
    other_architecture = any(change.key.startswith("architecture.") for change in params)
    for change in changes:
        listed = change.variant not in before - after
        if after and change.target in (
            *ANYWHERE,
            "cpu",
        ):  # of what neither side lists, `make repro` removes the files
            listed = change.variant in after or change.variant in UNLISTED
        wanted = not listed or (change.target.startswith("cpu-") and other_architecture)
        if change.verdict != "removed" or wanted:
            continue
        folder = f"metrics/bench/{change.target}"
        file = f"{folder}/{change.variant}.json"
        if change.kind in OF_MACHINE and other_machine(old.metrics.get(file, {}), new.metrics.get(file, {})):
            continue
        machine = new.metrics.get(f"{folder}/machine.json", {})
        # "baseline: the rounds' latencies spread by ...": all of its metrics
        if str(machine.get("details.unsteady", "")).startswith(f"{change.variant}: "):
            continue
        left_out = str(machine.get("details.left_out", "")).split(", ")
        names = {f"{change.variant} {change.metric}", f"{change.variant} {change.target}.{change.metric}"}
        if names.isdisjoint(left_out):
            yield change
