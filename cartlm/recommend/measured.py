"""What competes: each variant's accuracy, latency, memory and size on one target, from metrics/ alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

from cartlm.errors import UserError
from cartlm.evaluation.paired import BASELINE, read_exact_of
from cartlm.metrics import Outcome
from cartlm.report import cells, hardware
from cartlm.report.cells import Interval
from cartlm.report.summary import read_optional

ACCURACY, P95, RSS, SIZE = "exact_match", "latency_ms_p95", "peak_rss_mib", "size_mib"
RANDOM = "cpu-"  # begins the targets of architectures with random weights
COSTS = (P95, RSS, SIZE)
Decoding = Literal["free", "constrained", "ensemble"]
Rows = Literal["test", "natural"]
NAMES = {ACCURACY: "exact match", P95: "p95", RSS: "peak RSS", SIZE: "size"}
UNITS = {ACCURACY: "", P95: " ms", RSS: " MiB", SIZE: " MiB"}


@dataclass(frozen=True)
class Candidate:
    """A variant with all four quantities; a size, which is counted, is its own interval."""

    name: str
    values: Mapping[str, Interval]

    def __getitem__(self, key: str) -> Interval:
        return self.values[key]

    @property
    def losses(self) -> tuple[float, ...]:
        """The four values, turned so that less is better."""
        return -self[ACCURACY].value, *(self[key].value for key in COSTS)

    def dominates(self, other: Candidate) -> bool:
        """Whether it is nowhere worse and somewhere better, by the values alone."""
        return dominates(self.losses, other.losses)

    def shown(self, key: str) -> str:
        """One quantity for people, as `p95 79.9 [74.3, 85.8] ms`."""
        return f"{NAMES[key]} {cells.with_interval(*self[key])}{UNITS[key]}"

    @property
    def row(self) -> dict[str, Any]:
        """As `cartlm.report.cells` takes it."""
        row: dict[str, Any] = {"variant": self.name}
        for key, value in self.values.items():
            row |= value.row(key)
        return row


def dominates(ours: Sequence[float], theirs: Sequence[float]) -> bool:
    """Whether our losses are nowhere larger and somewhere smaller."""
    return all(one <= other for one, other in zip(ours, theirs, strict=True)) and ours != theirs


@dataclass(frozen=True)
class Measured:
    """All that competes on a target, answering one set of rows by one way of decoding."""

    target: str
    machine: str
    decoding: Decoding
    rows: Rows
    n: int  # rows of that set
    candidates: Sequence[Candidate]
    left_out: dict[str, str]  # variant -> why
    outcomes: Mapping[str, Sequence[Outcome]]  # by row, where they are stored (metrics/exact)
    ways: Mapping[str, Any]  # metrics/decoding.json: latency by way of decoding, of one variant
    details: Mapping[str, Any]  # of the machine, in the target's machine.json


def timings(metrics: Path, target: str) -> dict[str, dict[str, Any]]:
    """The files of metrics/bench/TARGET by variant, each with the section of its speeds as `speed`.

    Raises UserError for a target that was not measured.
    """
    known = sorted(path.name for path in (metrics / "bench").glob("*") if path.is_dir())
    if target not in known:
        what = f"no target {target!r} was measured; there are: {', '.join(known) or 'none'}"
        raise UserError(what, "make repro measures this machine (cpu), make help lists the others")
    folder = metrics / "bench" / target
    for section in ("cpu", "gpu"):
        if files := hardware.measurements(folder, section):
            return {name: {**file, "speed": file[section]} for name, file in files.items()}
    raise UserError(f"{folder} has no measurement of a variant", "make bench")


def section_name(variant: str, decoding: Decoding, rows: Rows) -> str:
    """The section of metrics/eval with that accuracy; all answers of the baseline are legal, and its own."""
    way = "free" if variant == BASELINE else decoding
    if rows == "natural":
        return "natural" if way == "free" else f"natural_{way}"
    return way


def read(
    metrics: Path, variants: Sequence[str], target: str, decoding: Decoding | None, rows: Rows
) -> Measured:
    """What competes on a target; `decoding` None: constrained where a variant was evaluated so, else free.

    Raises UserError for an unknown target, for one of random weights, and where nothing has all four quantities.
    """
    files = timings(metrics, target)
    if target.startswith(RANDOM):
        what = f"{target} was measured with random weights, which have no accuracy"
        raise UserError(what, "cartlm recommend --target cpu")
    evaluations = {name: read_optional(metrics / "eval" / f"{name}.json") for name in variants}
    if decoding is None:
        decoding = "constrained" if any("constrained" in each for each in evaluations.values()) else "free"
    found, left_out, counts = list[Candidate](), dict[str, str](), set[int]()
    for name, evaluation in evaluations.items():
        section = section_name(name, decoding, rows)
        accuracy, speed = evaluation.get(section, {}), files.get(name, {}).get("speed", {})
        values = {
            key: value
            for key, part in {ACCURACY: accuracy, **dict.fromkeys(COSTS, speed)}.items()
            if (value := interval(part, key)) is not None
        }
        if len(values) == 1 + len(COSTS):
            found.append(Candidate(name, values))
            counts.add(accuracy["n"])
        elif not speed:
            left_out[name] = f"not measured on {target}"
        elif ACCURACY not in values:
            left_out[name] = f"no section {section} in metrics/eval"
        else:
            missing = ", ".join(key for key in COSTS if key not in values)
            left_out[name] = f"no {missing} in metrics/bench/{target}"
    left_out |= {name: "not evaluated: not in params.yaml" for name in files if name not in evaluations}
    if not found:
        why = "; ".join(f"{name}: {reason}" for name, reason in left_out.items())
        raise UserError(
            f"nothing to recommend on {target}: {why or 'params.yaml lists no variant'}", "make repro"
        )
    if len(counts) > 1:
        what = f"the evaluations have different numbers of rows: {', '.join(map(str, sorted(counts)))}"
        raise UserError(what, "make repro evaluates what is stale")
    outcomes: dict[str, list[Outcome]] = {}
    for each in found:
        way = "free" if each.name == BASELINE else decoding
        outcomes |= read_exact_of(metrics, [each.name], rows, way)
    machine = hardware.machine_names({each.name: files[each.name] for each in found})
    ways = read_optional(metrics / "decoding.json")
    details = read_optional(metrics / "bench" / target / "machine.json").get("details", {})
    return Measured(target, machine, decoding, rows, counts.pop(), found, left_out, outcomes, ways, details)


def other_ways(
    metrics: Path, variants: Sequence[str], found: Measured, excluded: Sequence[str]
) -> list[Measured]:
    """The same by every other way of decoding that was evaluated."""
    others = []
    for way in get_args(Decoding):
        if way != found.decoding:
            with suppress(UserError):  # nothing was evaluated so
                others.append(without(read(metrics, variants, found.target, way, found.rows), excluded))
    return others


def without(found: Measured, names: Sequence[str]) -> Measured:
    """The same without these variants. Raises UserError for one that is not there, and where none is left."""
    competing = [each.name for each in found.candidates]
    for name in names:
        if name not in competing and name not in found.left_out:
            raise UserError(
                f"--exclude {name}: there is no such variant", f"choose of: {', '.join(competing)}"
            )
    kept = [each for each in found.candidates if each.name not in names]
    if not kept:
        raise UserError(f"--exclude leaves nothing to recommend on {found.target}", "exclude fewer variants")
    return replace(found, candidates=kept, left_out=found.left_out | dict.fromkeys(names, "excluded"))


def interval(section: Mapping[str, Any], key: str) -> Interval | None:
    """A value with its limits, its own where it has none."""
    if (value := section.get(key)) is None:
        return None
    return Interval(value, section.get(f"{key}_low", value), section.get(f"{key}_high", value))
