"""How far the machine itself went between two measurements: what variants of which nothing changed have in common.

A slow minute of the host covers a whole measurement, so neither its rounds nor its intervals can tell it. It covers
all variants, though: those that nothing in the commit touches are the control of the others.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from statistics import median
from typing import Any, TypeVar

from cartlm.report.commits import Side
from cartlm.report.paired import signed
from cartlm.report.rules import ACCURACY, judged, other_machine, place

TIMED = ("speed", "latency", "load", "energy")
"""Kinds that a slow minute shifts; memory is none, and what all variants share of it is worth a look."""
FEWEST = 3  # other variants: the median of two is moved by either
OWN = ("models/", "metrics/")  # dependencies that hold a variant each; all others are shared
LISTS = (("gguf",), ("gptq",))  # params with a block for each variant
K = TypeVar("K")
Ratios = dict[str, dict[str, float]]
"""Key -> variant -> new value relative to the old one."""


@dataclass(frozen=True)
class Shift:
    """What the controls of one metric did."""

    factor: float  # median of new / old
    variants: int

    @property
    def change(self) -> float:
        """Relative to the old values: -0.2 is a fifth less."""
        return self.factor - 1

    @property
    def words(self) -> str:
        """Why a change that goes no further is none."""
        return f"no further than {self.variants} other variants of which nothing changed ({signed(self.change)} %)"


@dataclass(frozen=True)
class Drift:
    """The ratios of the variants of which nothing changed, by target."""

    targets: dict[str, Ratios]

    def of(self, target: str, variant: str, key: str) -> Shift | None:
        """The shift of the other variants; None with fewer than FEWEST of them."""
        ratios = self.targets.get(target, {}).get(key, {})
        return shift([ratio for name, ratio in ratios.items() if name != variant])

    def shared(self) -> Iterator[tuple[str, str, Shift]]:
        """Target, key and shift over all controls."""
        for target, keys in self.targets.items():
            for key, ratios in keys.items():
                if found := shift(list(ratios.values())):
                    yield target, key, found


def less(values: Mapping[str, Any], key: str, by: Shift) -> dict[str, Any]:
    """The values of a file with one metric and its interval as they were without the shift."""
    limits = {name: values[name] for name in (key, f"{key}_low", f"{key}_high") if name in values}
    return {**values, **{name: value / by.factor for name, value in limits.items()}}


def shift(ratios: Sequence[float]) -> Shift | None:
    """The median of at least FEWEST ratios."""
    return Shift(median(ratios), len(ratios)) if len(ratios) >= FEWEST else None


def measured(old: Side, new: Side) -> Drift:
    """The controls of every hardware target.

    Without an entry in both sides' dvc.lock, where it is older than the code and params beside it, or where anything
    differs that variants share, there are none: whatever happened may then be the commit's doing.
    """
    targets: dict[str, Ratios] = {}
    for file in sorted(old.metrics.keys() & new.metrics.keys()):
        target, variant = place(file)
        before, after = old.metrics[file], new.metrics[file]
        if target in ("", ACCURACY) or other_machine(before, after):
            continue
        if circumstances(before) != circumstances(after):
            continue
        if not untouched(old, new, PurePosixPath(file).parent.as_posix(), variant):
            continue
        ratios = targets.setdefault(target, {})
        for key, kind, _ in judged(before, after, target):
            if kind in TIMED and before.get(key, 0) > 0 and after.get(key, 0) > 0:
                ratios.setdefault(key, {})[variant] = after[key] / before[key]
    return Drift(targets)


def untouched(old: Side, new: Side, folder: str, variant: str) -> bool:
    """Whether the stage that wrote `folder` had the same code, packages, params and model for this variant.

    What differs in the model or the params of another variant alone does not touch it.
    """
    stages = []
    for side in (old, new):
        name = next((name for name, stage in side.stages.items() if folder in stage.outs), None)
        if name is None or name in side.outdated:
            return False
        stages.append(side.stages[name])
    inputs = differing(stages[0].hashes, stages[1].hashes)
    params = differing(*(dict(flat(stage.params)) for stage in stages))
    shared = [path for path in inputs if not path.startswith(OWN)]
    if shared or any(key[1:2] not in LISTS or key[2:3] in ((), (variant,)) for key in params):
        return False
    models = [made(side, f"models/{variant}") for side in (old, new)]
    return not inputs or (models[0] is not None and models[0] == models[1])


def made(side: Side, path: str) -> str | None:
    """The hash of what a stage made at `path`."""
    return next((stage.made[path] for stage in side.stages.values() if path in stage.made), None)


def differing(before: Mapping[K, Any], after: Mapping[K, Any]) -> list[K]:
    return [key for key in before.keys() | after.keys() if before.get(key) != after.get(key)]


def flat(values: Any, *above: str) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Params of dvc.lock as (file, section, key, ...) and value; a dotted key counts as nested."""
    if not isinstance(values, dict) or not values:
        yield above, values
        return
    for key, value in values.items():
        yield from flat(value, *above, *(str(key).split(".") if above else [key]))


def circumstances(values: Mapping[str, Any]) -> dict[str, Any]:
    """The machine and the engine, as a result tells them: build, version, kernel, instructions, threads."""
    return {key: value for key, value in values.items() if key.startswith(("machine.", "engine."))}
