"""What a comparison judges by, and what the judged side changed in it: no change sets the bar for itself."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import TypeAdapter, ValidationError

from cartlm import yaml_files
from cartlm.compare.load import ParamChange
from cartlm.compare.rules import OF_MACHINE, other_machine
from cartlm.config import Share
from cartlm.pipeline.repository import read_file, run_git
from cartlm.text import few

if TYPE_CHECKING:
    from cartlm.compare.judge import Change
    from cartlm.compare.load import Side

STANDARD: Mapping[str, float] = {
    "accuracy": 0.005, "speed": 0.15, "latency": 0.3, "load": 0.5, "memory": 0.05, "energy": 0.15, "size": 0.01,
    "loss": 0.1,
}  # fmt: skip
"""Tolerances where the older side has none: those of presets/offline.yaml."""
LOOSER: tuple[tuple[str, Literal["lower", "higher"]], ...] = (
    (r"compare\.\w+", "higher"),
    (r"(bench_cpu|gpu|architecture)\.max_spread", "higher"),
    (r"(bench_cpu|gpu|architecture)\.(\w*rounds|\w*queries|warmups)", "lower"),
    (r"data\.test|data\.novel|merge\.check_rows|gpu\.accuracy_batch", "lower"),
    (r"parity\.(min_agreement|rows)|eval\.(natural_rows|flip_rows)", "lower"),
    (r"data\.gates\.(balance|template_share|near_duplicate)", "higher"),
    (r"data\.gates\.(distinct_2|twins)", "lower"),
)
"""Params that decide how closely a change is looked at, and which way is less closely."""
OWN_CODE = ("cartlm/report", "cartlm/evaluation/statistics.py", ".github")
LISTS = ("reference", "gguf", "gptq", "remote")


def params(root: Path, commit: str | None) -> Mapping[str, Any]:
    """The values of a side's params.yaml, sound or not; empty where it has none."""
    try:
        values = yaml_files.parse(read_file(root, commit, "params.yaml") or b"")
    except yaml_files.NotYaml:
        values = None
    return values if isinstance(values, dict) else {}


def tolerances(values: Mapping[str, Any], name: str) -> tuple[dict[str, float], list[str]]:
    """The tolerances of the older side by kind, and a sentence on those that it lacks or that are none."""
    given, share = values.get("compare"), TypeAdapter(Share)
    found, said = dict(STANDARD), []
    for kind, standard in STANDARD.items():
        value = given.get(kind) if isinstance(given, dict) else None
        try:
            found[kind] = share.validate_python(value, strict=True)
        except ValidationError:
            said.append(f"{kind} {standard:g}" + ("" if value is None else f" (not {value!r:.20})"))
    return found, [
        f"in {name}, params.yaml has no such tolerance under compare, so the standard is taken: {few(said, 8)}."
    ] if said else []


def names(values: Mapping[str, Any], *lists: str) -> list[str]:
    """Names of the variants, or of what stands in the `lists`, in the order of params.yaml."""
    sections = (values.get(section) for section in lists or LISTS[:3])
    return [str(name) for section in sections if isinstance(section, dict) for name in section]


def loosened(changes: Sequence[ParamChange], name: str) -> list[str]:
    """A sentence on params that let the judged side be looked at less closely; its tolerances do not count."""
    said: dict[bool, list[str]] = {}
    for change in changes:
        for pattern, looser in LOOSER:
            if (
                change.file == "params.yaml"
                and re.fullmatch(pattern, change.key)
                and _is_looser(change, looser)
            ):
                tolerance = change.key.startswith("compare.")
                said.setdefault(tolerance, []).append(f"{change.key} was {change.old!r}, is {change.new!r}")
    words = {
        True: "wider tolerances are set, which do not count",
        False: "params look less closely than before",
    }
    return [f"in {name}, {words[which]}: {few(found, 8)}." for which, found in sorted(said.items())]


def own_code(root: Path, old: str, new: str | None, name: str) -> list[str]:
    """A sentence where the code that compares differs: a workflow runs that of the judged side."""
    arguments = ("diff", "--name-only", old, *([new] if new else []), "--", *OWN_CODE)
    changed = run_git(root, *arguments).stdout.splitlines()
    return [f"in {name}, what compares or what calls it is changed: {few(changed, 4)}."] if changed else []


def _is_looser(change: ParamChange, looser: str) -> bool:
    """Whether a param went the `looser` way; what is gone, or no number any more, did."""
    old, new = change.old, change.new
    if not isinstance(old, int | float):  # null of threads and the like has no order
        return False
    if not isinstance(new, int | float) or new != new:
        return True
    return new > old if looser == "higher" else new < old


def lost(
    changes: Sequence[Change], old: Side, new: Side, left: Collection[str], params: Sequence[ParamChange]
) -> Iterator[Change]:
    """Removed metrics that nothing explains: neither the variant left params.yaml, nor does another machine lack a meter.

    `left` names the variants and servers that only the old params.yaml has.
    """
    other_architecture = any(change.key.startswith("architecture.") for change in params)
    for change in changes:
        if change.verdict != "removed" or change.variant in left:
            continue
        if change.target.startswith("cpu-") and other_architecture:
            continue
        file = f"metrics/bench/{change.target}/{change.variant}.json"
        before, after = old.metrics.get(file, {}), new.metrics.get(file, {})
        if change.kind in OF_MACHINE and other_machine(before, after):
            continue
        yield change


def told(found: Sequence[Change], name: str) -> list[str]:
    """A sentence on lost metrics, as many as one counts for each variant."""
    counts: dict[str, list[str]] = {}
    for change in found:
        counts.setdefault(f"{change.target} {change.variant}", []).append(change.metric)
    each = [f"{who} ({few(metrics, 3)})" for who, metrics in counts.items()]
    return [f"in {name}, numbers are gone of what params.yaml still lists: {few(each, 8)}."] if each else []
