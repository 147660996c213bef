"""Checkpoints of a fine-tuning run: a folder a run key, and which of its checkpoints are whole."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

MARK = "complete.json"
"""Written last into a checkpoint: the size of each of its files."""
PREFIX = "checkpoint-"  # the trainer's


def run_key(settings: Mapping[str, Any], files: Sequence[Path]) -> str:
    """16 hex digits of everything that decides a run: plain `settings`, and the names and bytes of `files`."""
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for path in files:
        with path.open("rb") as file:
            digest.update(f"\n{path.name} {hashlib.file_digest(file, 'sha256').hexdigest()}".encode())
    return digest.hexdigest()[:16]


def _sizes(folder: Path) -> dict[str, int]:
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != MARK)
    return {path.relative_to(folder).as_posix(): path.stat().st_size for path in files}


def mark_complete(folder: Path) -> None:
    """Call after the last file of a checkpoint is written."""
    temporary = folder / f".{MARK}.tmp"
    temporary.write_text(json.dumps(_sizes(folder)), encoding="utf-8")
    temporary.replace(folder / MARK)


def is_complete(folder: Path) -> bool:
    """Whether the mark is there and every file has the size it had then."""
    try:
        marked = json.loads((folder / MARK).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(marked, dict) and bool(marked) and _sizes(folder) == marked


def last_complete(run: Path) -> Path | None:
    """The newest whole checkpoint under `run`, None if there is none; half-written ones are removed."""
    found: list[tuple[int, Path]] = []
    for folder in run.glob(f"{PREFIX}*"):
        step = folder.name.removeprefix(PREFIX)
        if step.isdecimal() and is_complete(folder):
            found.append((int(step), folder))
        else:
            shutil.rmtree(folder, ignore_errors=True)
    return max(found)[1] if found else None


def forget_others(runs: Path, keep: str) -> list[str]:
    """Remove all run folders but `keep`; returns their names."""
    gone = sorted(path.name for path in runs.iterdir() if path.is_dir() and path.name != keep)
    for name in gone:
        shutil.rmtree(runs / name, ignore_errors=True)
    return gone
