"""The variants of params.yaml: their order, and forgetting those that are no longer listed."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from cartlm.params import Params
from cartlm.pipeline import dvc_lock

_CELL = re.compile(r"^  (?P<name>[^\s#][^:]*):\s*$")
OTHER_MODELS = ("base", "adapter", "merged", "f16", "architecture")
"""Folders under models/ that are no variant's."""
Cells = Mapping[str, Collection[str]]
"""Name of a foreach stage -> the cells that params.yaml gives it."""


@dataclass(frozen=True)
class Pruned:
    """What went, and what is in the way and stays, with the reason."""

    gone: list[str] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)


def listed(params: Params) -> list[str]:
    """Names of all variants, in the order of params.yaml: first the unquantized ones."""
    return [*type(params.reference).model_fields, *params.gguf, *params.gptq]


def prune(root: Path, params: Params) -> Pruned:
    """Remove metrics, lock entries, models and raw files of variants, servers and types that are not listed.

    A cell that left params.yaml has no stage any more, so that DVC itself would keep its traces for ever. Of models/ only
    what dvc.lock says such a cell made goes, and only as it was made: DVC's cache still has it. Answers that were paid
    for (data/answers) stay.
    """
    variants, remote = listed(params), params.remote
    folders: dict[str, Collection[str]] = {
        "quantize": params.gguf, "gptq": params.gptq, "eval": variants, "outcomes": (*variants, *remote),
        "bench/cpu": ("f16", *params.gguf, "machine", "rounds"), "remote": remote,
    }  # fmt: skip
    gone = []
    for folder, names in folders.items():
        for path in sorted((root / "metrics" / folder).glob("*.*")):
            if path.stem not in names and path.suffix in (".json", ".csv"):
                path.unlink()
                gone.append(path.relative_to(root).as_posix())
    cells: dict[str, Cells] = {
        "dvc.lock": {
            "quantize-gguf": params.gguf, "eval": params.gguf, "quantize-gptq": params.gptq, "eval-gptq": params.gptq,
            "eval-reference": list(type(params.reference).model_fields),
        },
        "remote/dvc.lock": {"eval-remote": remote},
        "architecture/dvc.lock": {"quantize": params.architecture.types},
    }  # fmt: skip
    # Models first: a run that is killed in between finds them in the lock again.
    models, kept = _prune_models(root, cells["dvc.lock"], (*OTHER_MODELS, *variants))
    gone += [*models, *(name for path, stages in cells.items() for name in prune_lock(root / path, stages))]
    return Pruned(gone, kept)


def _prune_models(root: Path, cells: Cells, names: Collection[str]) -> tuple[list[str], list[str]]:
    """Remove what cells that are gone made under models/ and runs/; what went, and what stays though no stage makes it."""
    lock = root / "dvc.lock"
    entries = dvc_lock.stages(
        lambda path: lock.read_bytes() if path == lock.name and lock.exists() else None, "the workspace"
    )
    made = {
        path: md5
        for name, entry in entries.items()
        if _is_gone(name, cells)
        for path, md5 in entry.made.items()
        if path.startswith("models/")
    }
    gone, kept = [], []
    for folder in sorted((root / "models").glob("*")):
        path = folder.relative_to(root).as_posix()
        if folder.name in names or folder.name.startswith("."):
            continue
        if path not in made:
            kept.append(f"{path}: no stage makes it, and dvc.lock does not know it")
        elif folder.is_symlink() or _hash(root, folder) != made[path]:
            kept.append(f"{path}: not as its stage made it")
        else:
            shutil.rmtree(folder)
            gone.append(path)
    raw_files = ("quantize/{0}", "quantize/{0}.log", "eval/{0}.*", "bench/cpu/{0}.jsonl")
    for name in {Path(path).name for path in made} - {*names}:
        for raw in [path for each in raw_files for path in (root / "runs").glob(each.format(name))]:
            shutil.rmtree(raw) if raw.is_dir() and not raw.is_symlink() else raw.unlink()
    return gone, kept


def _hash(root: Path, folder: Path) -> str:
    """What dvc.lock would say of a folder; an empty folder counts for nothing, as in DVC."""
    files = {}
    for path in sorted(path for path in folder.rglob("*") if not path.is_dir()):
        with path.open("rb") as file:
            files[path.relative_to(root).as_posix()] = hashlib.file_digest(file, "md5").hexdigest()
    return dvc_lock.folder_hash(folder.relative_to(root).as_posix(), files)


def _is_gone(name: str, cells: Cells) -> bool:
    stage, at, cell = name.partition("@")
    return bool(at) and cell not in cells.get(stage, ())


def prune_lock(path: Path, cells: Cells) -> list[str]:
    """Remove the `stage@cell` entries of other cells from a dvc.lock; returns their names.

    Works on lines, so that what stays keeps its bytes. DVC reads the file anew before it writes, so a stage
    may call this while `dvc repro` runs.
    """
    if not path.exists():
        return []
    kept, gone, skipping = [], [], False
    for line in path.read_text(encoding="utf-8").splitlines(keepends=True):
        if found := _CELL.match(line):
            name = found["name"].strip("'\"")
            skipping = _is_gone(name, cells)
            if skipping:
                gone.append(name)
        elif not line.startswith("  "):
            skipping = False
        if not skipping:
            kept.append(line)
    if gone:
        temporary = path.with_name(f".{path.name}.tmp")
        temporary.write_text("".join(kept), encoding="utf-8")
        os.replace(temporary, path)
    return gone
