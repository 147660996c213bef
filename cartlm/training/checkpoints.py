"""Checkpoints of fine-tuning: one folder for each run key, and which of its checkpoints are complete."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cartlm.files import sha256, write_text

MARK = "complete.json"
"""Written last into a checkpoint: the size of each of its files."""
PREFIX = "checkpoint-"  # the trainer's


def run_key(settings: Mapping[str, Any], files: Sequence[Path]) -> str:
    """16 hex digits of everything that decides a run: plain `settings`, and the names and bytes of `files`."""
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for path in files:
        digest.update(f"\n{path.name} {sha256(path)}".encode())
    return digest.hexdigest()[:16]


def _sizes(folder: Path) -> dict[str, int]:
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != MARK)
    return {path.relative_to(folder).as_posix(): path.stat().st_size for path in files}


def mark_complete(folder: Path) -> None:
    """Call after the last file of a checkpoint is written."""
    write_text(folder / MARK, json.dumps(_sizes(folder)))


def is_complete(folder: Path) -> bool:
    """Whether the mark exists and every file has the size that it records."""
    try:
        return bool(_sizes(folder) == json.loads((folder / MARK).read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return False


def last_complete(run: Path) -> Path | None:
    """The newest complete checkpoint under `run`, None if there is none; incomplete ones are removed."""
    complete: dict[int, Path] = {}
    for folder in run.glob(f"{PREFIX}*"):
        step = folder.name.removeprefix(PREFIX)
        if step.isdecimal() and is_complete(folder):
            complete[int(step)] = folder
        else:
            shutil.rmtree(folder, ignore_errors=True)
    return complete[max(complete)] if complete else None


def remove_other_runs(runs: Path, keep: str) -> None:
    """Remove all run folders but `keep`."""
    for path in runs.iterdir():
        if path.name != keep:
            shutil.rmtree(path, ignore_errors=True)
