"""The variants of params.yaml: their order, and forgetting those that are no longer listed."""

from __future__ import annotations

import os
import re
from collections.abc import Collection
from pathlib import Path

from cartlm.params import Params

FOLDERS = ("quantize", "gptq", "eval", "outcomes", "bench/cpu", "remote")
"""Folders under metrics/ that hold one file a variant; outcomes and remote also one a server."""
NOT_VARIANTS = ("machine",)
_CELL = re.compile(r"^  (?P<name>[^\s#][^:]*):\s*$")


def listed(params: Params) -> list[str]:
    """Names of all variants, in the order of params.yaml: first the unquantized ones."""
    return [*type(params.reference).model_fields, *params.gguf, *params.gptq]


def prune(root: Path, params: Params) -> list[str]:
    """Remove metrics and lock entries of variants, servers and types that are not listed; returns their paths or names.

    A cell that left params.yaml has no stage any more, so that DVC itself would keep its traces for ever.
    Answers that were paid for (data/answers) stay.
    """
    variants, remote = listed(params), params.remote
    gone = []
    for folder in FOLDERS:
        names = remote if folder == "remote" else (*variants, *remote) if folder == "outcomes" else variants
        for path in sorted((root / "metrics" / folder).glob("*.*")):
            if path.stem not in (*names, *NOT_VARIANTS) and path.suffix in (".json", ".csv"):
                path.unlink()
                gone.append(path.relative_to(root).as_posix())
    cells = {
        "dvc.lock": variants,
        "remote/dvc.lock": remote,
        "architecture/dvc.lock": params.architecture.types,
    }
    return [*gone, *(name for path, names in cells.items() for name in prune_lock(root / path, names))]


def prune_lock(path: Path, variants: Collection[str]) -> list[str]:
    """Remove the `stage@variant` entries of other variants from a dvc.lock; returns their names.

    Works on lines, so that what stays keeps its bytes. DVC reads the file anew before it writes, so a stage
    may call this while `dvc repro` runs.
    """
    if not path.exists():
        return []
    kept, gone, skipping = [], [], False
    for line in path.read_text(encoding="utf-8").splitlines(keepends=True):
        if found := _CELL.match(line):
            stage, at, cell = found["name"].strip("'\"").partition("@")
            skipping = bool(at) and cell not in variants
            if skipping:
                gone.append(f"{stage}@{cell}")
        elif not line.startswith("  "):
            skipping = False
        if not skipping:
            kept.append(line)
    if gone:
        temporary = path.with_name(f".{path.name}.tmp")
        temporary.write_text("".join(kept), encoding="utf-8")
        os.replace(temporary, path)
    return gone
