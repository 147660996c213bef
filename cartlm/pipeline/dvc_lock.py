"""What dvc.lock has of the numbers beside it: the rows, the code and the params with which each stage was run.

From the files of a commit or of the workspace alone, without DVC.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import PurePosixPath
from typing import Any

from cartlm.errors import UserError
from cartlm.pipeline.repository import Tree

# Paths in all are from the root.
LOCKS = ("dvc.lock", "remote/dvc.lock", "architecture/dvc.lock", "gpu/dvc.lock", "base/dvc.lock")
MADE = ("data/", "models/", "metrics/")  # dependencies that stages make; all others are code and packages
MEASURED = ("metrics/bench/", "metrics/decoding", "metrics/eval/", "metrics/remote")
OUTCOMES = "metrics/outcomes"
REMOTE_OUTCOMES = "metrics/remote_outcomes"  # of servers: another pipeline file makes them
TEST_ROWS = "data/test.jsonl"


@dataclass(frozen=True)
class Stage:
    """A stage as it was run."""

    outs: dict[str, int]  # path -> bytes
    hashes: dict[str, str]  # MD5 by path of the dependencies
    params: dict[str, dict[str, Any]]  # file -> dotted key -> value
    out_hashes: dict[str, str]  # MD5 by path of the outputs

    @property
    def code(self) -> dict[str, str]:
        return {path: md5 for path, md5 in self.hashes.items() if not path.startswith(MADE)}


def read_stages(tree: Tree) -> dict[str, Stage]:
    """All stages by name, as DVC writes it. Raises UserError for what is no lock file."""
    found = {}
    for path in LOCKS:
        prefix = "" if path == LOCKS[0] else path.replace(".lock", ".yaml:")
        try:
            for stage, entry in (tree.yaml(path).get("stages") or {}).items():
                deps, outs = entry.get("deps") or [], entry.get("outs") or []
                found[prefix + stage] = Stage(
                    {out["path"]: out.get("size", 0) for out in outs},
                    {dep["path"]: dep["md5"] for dep in deps if dep.get("md5")},
                    entry.get("params") or {},
                    {out["path"]: out["md5"] for out in outs if out.get("md5")},
                )
        except (AttributeError, KeyError, TypeError):
            where, next = tree.place(path, "diff")
            raise UserError(f"{where} is no lock file of DVC", next) from None
    return found


def row_hashes(stages: Mapping[str, Stage]) -> dict[str, str]:
    """Variant -> hash of the test rows that its evaluation read: other rows have the same ids."""
    return {
        PurePosixPath(out).stem: stage.hashes[TEST_ROWS]
        for stage in stages.values()
        for out in stage.outs
        if PurePosixPath(out).parent.as_posix() in (OUTCOMES, REMOTE_OUTCOMES) and TEST_ROWS in stage.hashes
    }


def reads_other_data(old: Mapping[str, Stage], new: Mapping[str, Stage], file: str) -> bool:
    """Whether the stages that wrote a file read other rows on the two sides; False where a lock does not have it."""
    before, after = (
        {path: md5 for stage in side.values() if file in stage.outs for path, md5 in stage.hashes.items()}
        for side in (old, new)
    )
    shared = before.keys() & after.keys()
    return any(path.startswith("data/") and before[path] != after[path] for path in shared)


def remade_inputs(stages: Mapping[str, Stage]) -> dict[str, list[str]]:
    """Stage -> what it read that another stage has made differently since, by the hashes of the locks alone."""
    now = {path: (md5, name) for name, stage in stages.items() for path, md5 in stage.out_hashes.items()}
    found: dict[str, list[str]] = {}
    for name, stage in stages.items():
        for path, md5 in stage.hashes.items():
            if path in now and now[path][0] != md5:
                found.setdefault(name, []).append(f"{path} (made anew by {now[path][1]})")
    return found


def outdated_stages(stages: Mapping[str, Stage], tree: Tree) -> dict[str, list[str]]:
    """Stages that were run with other code or params than those beside the lock, and with which."""
    md5, params = cache(tree.md5), cache(tree.yaml)
    found = {}
    for name, stage in stages.items():
        changed = sorted(path for path, run_with in stage.code.items() if md5(path) != run_with)
        for file, values in stage.params.items():
            changed += [key for key, value in values.items() if _at(params(file), key) != value]
        if changed:
            found[name] = changed
    return found


def _at(values: Any, key: str) -> Any:
    """The value of a dotted key; None where there is none."""
    for part in key.split("."):
        values = values.get(part) if isinstance(values, dict) else None
    return values


def changed_code(old: Mapping[str, Stage], new: Mapping[str, Stage]) -> dict[str, list[str]]:
    """Measuring stages of both sides that were run with other code or packages, and with which."""
    found = {}
    for name in sorted(old.keys() & new.keys()):
        different = {path for path, _ in old[name].code.items() ^ new[name].code.items()}
        if different and any(out.startswith(MEASURED) for out in new[name].outs):
            found[name] = sorted(different)
    return found
