"""How far the machine itself went between two measurements: what variants of which nothing changed have in common.

A slow minute of the host covers a whole measurement, so neither its rounds nor its intervals can tell it. It covers
all variants, though: those that nothing in the commit touches are the control of the others.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from statistics import fmean, median, variance
from typing import Any, TypeVar

from cartlm.compare import timings
from cartlm.compare.load import Side
from cartlm.compare.rules import ANYWHERE, judged, other_machine, place
from cartlm.evaluation.paired import signed_points
from cartlm.pipeline import dvc_lock
from cartlm.pipeline.dvc_lock import Stage

TIMED = ("speed", "latency", "load", "energy")
"""Kinds that a slow minute shifts; memory is none, and what all variants share of it is worth a look."""
FEWEST = 3  # other variants: the median of two is moved by either
PER_VARIANT = ("models/f16", "metrics/quantize", "metrics/gptq")
"""Inputs of a benchmark that differ where a single variant does; of all others every variant is made."""
LISTS = (("gguf",), ("gptq",))  # params with a block for each variant
Key = TypeVar("Key")


@dataclass(frozen=True)
class Ratio:
    """A new value relative to the old one."""

    factor: float
    error: float  # standard error of its logarithm, as the rounds of both tell; 0 where they do not


Ratios = dict[str, dict[str, list[Ratio]]]
"""Name of a metric -> variant -> what it did in each section that has the metric."""


@dataclass(frozen=True)
class Shift:
    """What the controls of one metric did."""

    factor: float  # median over the variants of new / old
    variants: int
    error: float  # standard error of the factor's logarithm, for another variant: see `shift`

    @property
    def change(self) -> float:
        """Relative to the old values: -0.2 is a fifth less."""
        return self.factor - 1

    @property
    def words(self) -> str:
        """The control as a reason is given beside it."""
        return (
            f"beside {self.variants} other variants of which nothing changed ({signed_points(self.change)} %)"
        )


@dataclass(frozen=True)
class Drift:
    """The ratios of the variants of which nothing changed, by target."""

    targets: dict[str, Ratios]

    def of(self, target: str, variant: str, key: str) -> Shift | None:
        """The shift of the other variants; None with fewer than FEWEST of them."""
        ratios = self.ratios(target, key)
        return shift({name: ratios[name] for name in ratios.keys() - {variant}})

    def over_all(self, target: str, key: str) -> Shift | None:
        """The shift of all controls."""
        return shift(self.ratios(target, key))

    def ratios(self, target: str, key: str) -> dict[str, list[Ratio]]:
        """By variant. A slow minute covers all kernels of a card, so sections are not kept apart."""
        return self.targets.get(target, {}).get(key.rpartition(".")[2], {})


def shift(ratios: Mapping[str, list[Ratio]]) -> Shift | None:
    """The median of at least FEWEST variants, each with the median of its sections.

    Its error has two parts: that of a median (pi / 2 times a mean's variance), and by how much the variants lie further
    apart than their rounds explain, as a slow minute does not hit all of them alike.
    """
    if len(ratios) < FEWEST:
        return None
    factors = [median(ratio.factor for ratio in found) for found in ratios.values()]
    within = fmean(fmean(ratio.error**2 for ratio in found) for found in ratios.values())
    apart = variance(map(math.log, factors))
    error = math.sqrt(math.pi / 2 * apart / len(factors) + max(0.0, apart - within))
    return Shift(median(factors), len(factors), error)


def without(by: Shift | None, values: Mapping[str, Any], key: str) -> dict[str, Any]:
    """The values of a file, one metric and its interval as they were without the shift."""
    found = dict(values)
    for name in (key, f"{key}_low", f"{key}_high"):
        if by and isinstance(found.get(name), int | float):
            found[name] /= by.factor
    return found


def measured(old: Side, new: Side) -> Drift:
    """The controls of every hardware target.

    There are none without an entry in both sides' dvc.lock, where it is older than the code and params beside it, and
    where anything differs that variants share: whatever happened may then be the commit's doing.
    """
    targets: dict[str, Ratios] = {}
    for file, before, after in on_one_machine(old, new):
        target, variant = place(file)
        if circumstances(old, file) != circumstances(new, file) or not untouched(old, new, file):
            continue
        ratios = targets.setdefault(target, {})
        for key, kind, _ in judged(before, after, target):
            if kind in TIMED and before.get(key, 0) > 0 and after.get(key, 0) > 0:
                sections = ratios.setdefault(key.rpartition(".")[2], {}).setdefault(variant, [])
                sections.append(ratio(before, after, key))
    return Drift(targets)


def on_one_machine(old: Side, new: Side) -> Iterator[tuple[str, dict[str, Any], dict[str, Any]]]:
    """The benchmark files that both sides have of the same machine, with their values."""
    for file in sorted(old.metrics.keys() & new.metrics.keys()):
        before, after = old.metrics[file], new.metrics[file]
        if place(file)[0] not in ("", *ANYWHERE) and not other_machine(before, after):
            yield file, before, after


def ratio(before: Mapping[str, Any], after: Mapping[str, Any], key: str) -> Ratio:
    """What a timing did, and how sure that is."""
    sides = timings.of(before, key), timings.of(after, key)
    error = math.hypot(sides[0].error, sides[1].error) if sides[0] and sides[1] else 0.0
    return Ratio(after[key] / before[key], error)


def circumstances(side: Side, file: str) -> dict[str, Any]:
    """What a benchmark's file and machine.json tell of build, engine, threads and libraries.

    Not the operating system's kernel: no commit changes it.
    """
    found = {
        key: value for key, value in side.metrics[file].items() if key.startswith(("machine.", "engine."))
    }
    details = side.metrics.get(str(PurePosixPath(file).with_name("machine.json")), {})
    return found | {key: value for key, value in details.items() if key != "details.kernel"}


def untouched(old: Side, new: Side, file: str) -> bool:
    """Whether the stage that wrote `file` had the same command, code, packages, params and model for its variant.

    What differs in the model or the params of another variant alone does not touch it.
    """
    before, after = wrote(old, file), wrote(new, file)
    if before is None or after is None or before.cmd != after.cmd:
        return False
    variant = place(file)[1]
    inputs = differing(before.hashes, after.hashes)
    params = differing(dict(flat(before.params)), dict(flat(after.params)))
    if any(path not in PER_VARIANT for path in inputs):
        return False
    if any(key[1:2] not in LISTS or key[2:3] in ((), (variant,)) for key in params):
        return False
    if not inputs:  # what the benchmark read says it all
        return True
    models = [made(side, f"models/{variant}") for side in (old, new)]
    return models[0] is not None and models[0] == models[1] and as_made(before, old) and as_made(after, new)


def wrote(side: Side, file: str) -> Stage | None:
    """The stage that wrote the folder of a file; None if that is not clear, or outdated."""
    folder = PurePosixPath(file).parent.as_posix()
    names = [name for name, stage in side.stages.items() if folder in stage.outs]
    return side.stages[names[0]] if len(names) == 1 and names[0] not in side.outdated else None


def made(side: Side, path: str) -> str | None:
    """The hash of what a stage made at `path`; None if not exactly one did."""
    found = [stage.made[path] for stage in side.stages.values() if path in stage.made]
    return found[0] if len(found) == 1 else None


def as_made(stage: Stage, side: Side) -> bool:
    """Whether a benchmark read what the stages before it made, and not what they had made earlier."""
    files = {path: md5 for each in side.stages.values() for path, md5 in each.made.items()}
    return all(
        stage.hashes[path] in (files.get(path), dvc_lock.folder_hash(path, files))
        for path in PER_VARIANT
        if path in stage.hashes
    )


def differing(before: Mapping[Key, Any], after: Mapping[Key, Any]) -> list[Key]:
    """Keys that only one side has, or with another value."""
    return [key for key in before.keys() | after.keys() if before.get(key) != after.get(key)]


def flat(values: Any, *above: str) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Params of dvc.lock as (file, section, key, ...) and value; a dotted key counts as nested."""
    if not isinstance(values, dict) or not values:
        yield above, values
        return
    for key, value in values.items():
        yield from flat(value, *above, *(str(key).split(".") if above else [key]))
