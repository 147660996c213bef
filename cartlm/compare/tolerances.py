"""The tolerances of a comparison, and what the newer side changed in how it is judged."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from pydantic import TypeAdapter, ValidationError

from cartlm.compare.load import ParamChange, Side
from cartlm.config import Share
from cartlm.pipeline.repository import run_git
from cartlm.text import few

STANDARD: Mapping[str, float] = {
    "accuracy": 0.005, "speed": 0.15, "latency": 0.3, "load": 0.5, "memory": 0.05, "energy": 0.15, "size": 0.01,
    "loss": 0.1,
}  # fmt: skip
"""Tolerances that an older side without its own is judged by: those of params.yaml."""
LESS_STRICT: tuple[tuple[str, Literal["lower", "higher"]], ...] = (
    (r"compare\.\w+", "higher"),
    (r"(bench_cpu|gpu|architecture)\.max_spread", "higher"),
    (r"(bench_cpu|gpu|architecture)\.(\w*rounds|\w*queries|warmups)", "lower"),
    (r"data\.test|data\.novel|merge\.check_rows|gpu\.accuracy_batch", "lower"),
    (r"parity\.(min_agreement|rows)|eval\.(natural_rows|flip_rows)", "lower"),
    (r"data\.gates\.(balance|template_share|near_duplicate)", "higher"),
    (r"data\.gates\.(distinct_2|twins)", "lower"),
)
"""Params that decide how strict the checks are, and the direction that makes them less strict."""
OWN_CODE = ("cartlm/compare", "cartlm/evaluation/paired.py", "cartlm/evaluation/statistics.py", ".github")


def tolerances_of(side: Side) -> tuple[dict[str, float], list[str]]:
    """The tolerances in a side's params.yaml by kind, and a note on the kinds for which the standard is used instead."""
    params = side.params.get("params.yaml")
    section = params.get("compare") if isinstance(params, dict) else None
    tolerances, missing = dict(STANDARD), []
    for kind, standard in STANDARD.items():
        value = section.get(kind) if isinstance(section, dict) else None
        try:
            tolerances[kind] = TypeAdapter(Share).validate_python(value, strict=True)
        except ValidationError:
            missing.append(f"{kind} {standard:g}" + ("" if value is None else f" (not {value!r:.20})"))
    note = f"in {side.name}, params.yaml has no such tolerance, so the standard is used: {few(missing, 8)}."
    return tolerances, [note] if missing else []


def less_strict_params(changes: Sequence[ParamChange], name: str) -> list[str]:
    """Notes on params with which the newer side is checked less strictly; its tolerances do not count."""
    texts: dict[str, list[str]] = {}
    for change in changes:
        for pattern, direction in LESS_STRICT:
            if (
                change.file == "params.yaml"
                and re.fullmatch(pattern, change.key)
                and _moved(change, direction)
            ):
                what = (
                    "wider tolerances are set, which do not count"
                    if change.key.startswith("compare.")
                    else "params are less strict than before"
                )
                texts.setdefault(what, []).append(f"{change.key} was {change.old!r}, is {change.new!r}")
    return [f"in {name}, {what}: {few(texts[what], 8)}." for what in sorted(texts)]


def _moved(change: ParamChange, direction: str) -> bool:
    """Whether a number moved in a direction; a number that is gone did."""
    old, new = change.old, change.new
    if not isinstance(old, int | float):  # null of threads and the like has no order
        return False
    if not isinstance(new, int | float) or new != new:
        return True
    return new > old if direction == "higher" else new < old


def own_code_changes(root: Path, old: str, new: str | None, name: str) -> list[str]:
    """A note if the code that compares differs: a workflow runs that of the newer side."""
    arguments = ("diff", "--name-only", old, *([new] if new else []), "--", *OWN_CODE)
    changed = run_git(root, *arguments).stdout.splitlines()
    return [f"in {name}, what compares or calls it is changed: {few(changed, 4)}."] if changed else []
