"""What a reader of a comparison has to know before its tables, one sentence each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from cartlm.bench import aggregate
from cartlm.compare import timings
from cartlm.compare.drift import Drift
from cartlm.compare.load import Side
from cartlm.compare.rules import ANYWHERE, TESTED, other_machine, place, unlike
from cartlm.evaluation.paired import signed_points
from cartlm.pipeline import dvc_lock
from cartlm.text import few

if TYPE_CHECKING:
    from cartlm.compare.judge import Change


def about(old: Side, new: Side, unpaired: Mapping[str, str]) -> list[str]:
    """What a reader has to know before the tables, one sentence each."""
    said: dict[str, list[str]] = {}
    for variant, why in unpaired.items():
        said.setdefault(f"Accuracy is not comparable, {why}", []).append(variant)
    for file in sorted(old.metrics.keys() | new.metrics.keys()):
        target, variant = place(file)
        before, after = old.metrics.get(file, {}), new.metrics.get(file, {})
        if not target or not (before or after):
            continue
        if not before or not after:
            gone = "no longer" if before else "only now"
            said.setdefault(f"{target}: {gone} measured", []).append(variant)
            continue
        if target not in ANYWHERE and (machine := other_machine(before, after)):
            described = str(PurePosixPath(file).with_name("machine.json"))
            own = unlike(old.metrics.get(described, {}), new.metrics.get(described, {}))
            what = f"{target}: not comparable, {machine}" + (f", {own}" if own else "")
            said.setdefault(what, []).append(variant)
        for key in ("engine.version", "engine.kernel", "engine.threads"):
            if before.get(key) != after.get(key):
                what = f"{target}: {key} was {before.get(key)}, is {after.get(key)}"
                said.setdefault(what, []).append(variant)
        for side, values in ((old, before), (new, after)):
            for what in doubtful(values):
                said.setdefault(f"{target} of {side.name}: {what}", []).append(variant)
    missing = sorted(old.outcomes.keys() ^ new.outcomes.keys())
    if missing:
        said["Outcomes are on one side only, so nothing is paired"] = missing
    return [f"{what}: {', '.join(names)}." for what, names in said.items()]


def doubtful(values: Mapping[str, Any]) -> Iterator[str]:
    """Why the timings of a benchmark file are worth little: what its measurement could not tell or could not help."""
    rounds = values.get("cpu.n", values.get("gpu.n"))
    if rounds is not None and rounds < timings.FEWEST_ROUNDS:
        yield f"measured in {rounds:g} round{'s' * (rounds > 1)}, which no test can tell from noise"
    busy = values.get("cpu.other_cpus", values.get("gpu.other_cpus", 0.0))
    if busy > aggregate.DISTURBED:
        yield f"measured while others kept more than {aggregate.DISTURBED:g} CPUs busy (other_cpus)"


def of_the_machine(changes: Sequence[Change], controls: Drift, tolerances: Mapping[str, float]) -> list[str]:
    """How far the variants went of which nothing changed, where that is beyond a tolerance or decides a verdict."""
    judged_so: dict[tuple[str, str], list[Change]] = {}
    for change in changes:
        if change.shared:
            judged_so.setdefault((change.target, change.metric), []).append(change)
    said: dict[str, list[str]] = {}
    for (target, metric), found in judged_so.items():
        shift = controls.over_all(target, metric)
        held = sum(change.withdrawn for change in found)
        if shift and (held or abs(shift.change) > tolerances[found[0].kind]):
            count = f" ({held} no change for it)" if held else ""
            said.setdefault(target, []).append(f"{metric} {signed_points(shift.change)} %{count}")
    return [
        f"{target}: timings are judged beside those of variants of which nothing changed; the median of these went "
        f"{'; '.join(found)}."
        for target, found in said.items()
    ]


def of_the_code(old: Side, new: Side) -> list[str]:
    """Stages that measured with other code on the two sides, and those whose numbers are older than code or params."""
    said: dict[str, list[str]] = {}
    for stage, paths in dvc_lock.changed_code(old.stages, new.stages).items():
        said.setdefault(f"Measured by other code ({few(paths, 4)})", []).append(stage)
    for side in (old, new):
        for stage, changed in side.outdated.items():
            said.setdefault(f"in {side.name}, not run again since {few(changed, 4)} changed", []).append(
                stage
            )
    return [f"{what}: {', '.join(stages)}." for what, stages in said.items()]


def torn(side: Side) -> list[str]:
    """Variants whose share in metrics/eval is not that of their outcomes: one of the two files is old."""
    found = []
    for variant, outcomes in side.outcomes.items():
        share = side.metrics.get(f"metrics/eval/{variant}.json", {}).get(TESTED)
        if share is not None and outcomes:
            counted = sum(outcome.outcome == "exact" for outcome in outcomes) / len(outcomes)
            if abs(counted - share) > 0.0001:  # metrics have 4 significant digits
                found.append(
                    f"in {side.name}, metrics/eval/{variant}.json says {share:g} exact, its outcomes {counted:g}."
                )
    return found
