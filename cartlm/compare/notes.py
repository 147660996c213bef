"""What a reader of a comparison must know before its tables, one sentence each."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Literal

from cartlm.bench import aggregate
from cartlm.compare.comparison import Change
from cartlm.compare.load import PARAMS, ParamChange, Side
from cartlm.compare.rules import ANYWHERE, TESTED, machine_differences, other_machine, target_and_variant
from cartlm.compare.timings import NO_REFERENCE, OTHER_REFERENCE
from cartlm.evaluation.paired import signed_points
from cartlm.pipeline import dvc_lock
from cartlm.pipeline.repository import run_git
from cartlm.text import few

LESS_STRICT: tuple[tuple[str, Literal["lower", "higher"]], ...] = (
    (r"compare\.\w+", "higher"),
    (r"(bench_cpu|gpu|architecture)\.max_spread", "higher"),
    (r"(bench_cpu|gpu|architecture)\.(\w*rounds|\w*queries|warmups)", "lower"),
    (r"data\.test|data\.novel|merge\.check_rows|gpu\.accuracy_batch", "lower"),
    (r"parity\.(min_agreement|rows)|eval\.(natural_rows|flip_rows|shots\.rows)", "lower"),
    (r"data\.gates\.(balance|template_share|near_duplicate)", "higher"),
    (r"data\.gates\.(distinct_2|twins)", "lower"),
)
"""Params that decide how strict the checks are, and the direction that makes them less strict."""
OWN_CODE = ("cartlm/compare", "cartlm/evaluation/paired.py", "cartlm/evaluation/statistics.py", ".github")
Groups = defaultdict[str, list[str]]
"""What is noted -> the variants, stages or metrics of which."""


def measurement_notes(old: Side, new: Side, unpaired: Mapping[str, str]) -> list[str]:
    """Which variants were measured on other rows, machines or engines, on one side only, or beside other programs."""
    notes = Groups(list)
    for variant, why in unpaired.items():
        notes[f"Accuracy is not comparable, {why}"].append(variant)
    for file in sorted(old.metrics.keys() | new.metrics.keys()):
        target, variant = target_and_variant(file)
        before, after = old.metrics.get(file), new.metrics.get(file)
        if not target or not (before or after):
            continue
        if not before or not after:
            notes[f"{target}: {'no longer' if before else 'only now'} measured"].append(variant)
            continue
        if target not in ANYWHERE and (machine := other_machine(before, after)):
            described = f"metrics/bench/{target}/machine.json"
            details = machine_differences(old.metrics.get(described, {}), new.metrics.get(described, {}))
            notes[", ".join(filter(None, [f"{target}: not comparable", machine, details]))].append(variant)
        for key in ("engine.version", "engine.kernel", "engine.threads"):
            if before.get(key) != after.get(key):
                notes[f"{target}: {key} was {before.get(key)}, is {after.get(key)}"].append(variant)
        for side, values in ((old, before), (new, after)):
            if values.get("cpu.other_cpus", values.get("gpu.other_cpus", 0.0)) > aggregate.DISTURBED:
                busy = f"measured while others kept more than {aggregate.DISTURBED:g} CPUs busy (other_cpus)"
                notes[f"{target} of {side.name}: {busy}"].append(variant)
    if one_sided := sorted(old.outcomes.keys() ^ new.outcomes.keys()):
        notes["Outcomes are on one side only, so nothing is paired"] = one_sided
    return _sentences(notes)


def reference_notes(changes: Sequence[Change], tolerances: Mapping[str, float]) -> list[str]:
    """Why timings do not compare, and where the reference model's own changed by more than a tolerance."""
    notes = Groups(list)
    for change in changes:
        if change.why in (NO_REFERENCE, OTHER_REFERENCE):
            notes[f"{change.target}: timings are not comparable, {change.why}"].append(change.variant)
        if change.reference is not None and abs(change.reference) > tolerances[change.kind]:
            what = f"{change.target}: timings are relative to the reference model, whose own changed"
            notes[what].append(f"{change.metric} {signed_points(change.reference)} %")
    return _sentences(notes)


def code_notes(old: Side, new: Side) -> list[str]:
    """Stages that measured with other code on the two sides, and stages older than their code or params."""
    notes = Groups(list)
    for stage, paths in dvc_lock.changed_code(old.stages, new.stages).items():
        notes[f"Measured by other code ({few(paths, 4)})"].append(stage)
    for side in (old, new):
        for stage, changed in side.outdated.items():
            notes[f"in {side.name}, not run again since {few(changed, 4)} changed"].append(stage)
    return _sentences(notes)


def lost_notes(lost: Sequence[Change], name: str) -> list[str]:
    """Metrics that are gone without an explanation, by variant."""
    notes = Groups(list)
    for change in lost:
        notes[f"{change.target} {change.variant}"].append(change.metric)
    texts = [f"{variant} ({few(metrics, 3)})" for variant, metrics in notes.items()]
    return [f"in {name}, numbers are gone of what params.yaml still lists: {few(texts, 8)}."] if texts else []


def less_strict_params(changes: Sequence[ParamChange], name: str) -> list[str]:
    """Notes on params with which the newer side is checked less strictly; its tolerances do not count."""
    notes = Groups(list)
    for change in changes:
        for pattern, direction in LESS_STRICT:
            if change.file == PARAMS and re.fullmatch(pattern, change.key) and _moved(change, direction):
                what = "params are less strict than before"
                if change.key.startswith("compare."):
                    what = "wider tolerances are set, which do not count"
                notes[what].append(f"{change.key} was {change.old!r}, is {change.new!r}")
    return [f"in {name}, {what}: {few(texts, 8)}." for what, texts in sorted(notes.items())]


def _moved(change: ParamChange, direction: str) -> bool:
    """Whether a number moved in a direction; a number that is gone did."""
    old, new, sign = change.old, change.new, 1 if direction == "higher" else -1
    known = isinstance(old, int | float)  # null of threads and the like has no order
    return known and (not isinstance(new, int | float) or not sign * new <= sign * old)  # NaN did too


def own_code_changes(root: Path, old: str, new: str | None, name: str) -> list[str]:
    """A note if the code that compares differs: a workflow runs that of the newer side."""
    arguments = ("diff", "--name-only", old, *([new] if new else []), "--", *OWN_CODE)
    changed = run_git(root, *arguments).stdout.splitlines()
    return [f"in {name}, what compares or calls it is changed: {few(changed, 4)}."] if changed else []


def inconsistent_metrics(side: Side) -> list[str]:
    """Published values that their own rows or rounds contradict: one of the two files is old."""
    notes = []
    for variant, outcomes in side.outcomes.items():
        file = f"metrics/eval/{variant}.json"
        share = side.metrics.get(file, {}).get(TESTED)
        counted = sum(each.outcome == "exact" for each in outcomes) / max(1, len(outcomes))
        # Metrics have 4 significant digits.
        if outcomes and share is not None and abs(counted - share) > 0.0001:
            notes.append(f"in {side.name}, {file} has {share:g} exact, its outcomes have {counted:g}.")
    for target, rounds in side.rounds.items():
        for (variant, metric), values in rounds.items():
            file = f"metrics/bench/{target}/{variant}.json"
            published, middle = side.metrics.get(file, {}).get(metric), median(values.values())
            if published and metric.endswith("_tokens_per_s") and abs(middle / published - 1) > 0.001:
                what = f"has {metric} {published:g}, its rounds have {middle:g}"
                notes.append(f"in {side.name}, {file} {what}.")
    return notes


def _sentences(notes: Mapping[str, Sequence[str]]) -> list[str]:
    return [f"{what}: {', '.join(dict.fromkeys(names))}." for what, names in notes.items()]
