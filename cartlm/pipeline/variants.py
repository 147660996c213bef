"""The variants that params.yaml lists, and removing what is left of those that it lists no longer.

A cell that left params.yaml has no stage any more, so DVC keeps its metrics, its model and its entry in dvc.lock. The
stages bench-cpu and summarize remove such metrics (`prune_metrics`); `cartlm prune`, which `make repro` runs before DVC,
removes models and lock entries too (`prune`).
"""

from __future__ import annotations

import shutil
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from cartlm import yaml_files
from cartlm.pipeline import dvc_lock
from cartlm.pipeline.repository import Tree

OTHER_MODELS = ("base", "adapter", "merged", "f16", "architecture")
"""Folders under models/ that are no variant's."""
RAW_FILES = ("quantize/{0}", "quantize/{0}.log", "eval/{0}.*", "bench/cpu/{0}.jsonl")
"""What a variant leaves under runs/."""


@dataclass(frozen=True)
class Variants:
    """Names in params.yaml, each section in its order."""

    reference: Collection[str]
    gguf: Collection[str]
    gptq: Collection[str]
    remote: Collection[str]
    architecture_types: Collection[str]

    @property
    def names(self) -> list[str]:
        """All variants: first the unquantized ones."""
        return [*self.reference, *self.gguf, *self.gptq]

    @property
    def cells(self) -> dict[str, dict[str, Collection[str]]]:
        """Lock file -> name of a foreach stage -> its cells."""
        return {
            "dvc.lock": {
                "quantize-gguf": self.gguf,
                "eval": self.gguf,
                "quantize-gptq": self.gptq,
                "eval-gptq": self.gptq,
                "eval-reference": self.reference,
            },
            "remote/dvc.lock": {"eval-remote": self.remote},
            "architecture/dvc.lock": {"quantize": self.architecture_types},
        }


def prune_metrics(root: Path, variants: Variants) -> list[str]:
    """Remove metrics files of variants and servers that are not listed; returns their paths."""
    folders: dict[str, Collection[str]] = {
        "quantize": variants.gguf,
        "gptq": variants.gptq,
        "eval": variants.names,
        "outcomes": variants.names,
        "bench/cpu": ("f16", *variants.gguf, "reference", "machine", "rounds"),
        "remote": variants.remote,
        "remote_outcomes": variants.remote,
    }
    unlisted = [
        path
        for folder, names in folders.items()
        for path in sorted((root / "metrics" / folder).glob("*.*"))
        if path.stem not in names and path.suffix in (".json", ".csv")
    ]
    for path in unlisted:
        path.unlink()
    return [path.relative_to(root).as_posix() for path in unlisted]


def prune(root: Path, variants: Variants) -> tuple[list[str], list[str]]:
    """Remove metrics, models, raw files and lock entries of what is not listed; not while DVC runs.

    A model is removed only if dvc.lock has it from such a cell, and unchanged: DVC's cache still has it.
    Paid answers (data/answers) stay. Returns what was removed, and which models stay, with the reason.
    """
    metrics = prune_metrics(root, variants)
    # Models first: a run that is killed in between finds them in the lock again.
    models, kept = _prune_models(root, variants)
    cells = [name for lock, stages in variants.cells.items() for name in _prune_lock(root / lock, stages)]
    return metrics + models + cells, kept


def _prune_models(root: Path, variants: Variants) -> tuple[list[str], list[str]]:
    tree = Tree(root)
    entries = dvc_lock.read_stages(tree)
    listed = (*OTHER_MODELS, *variants.names)
    hashes = {
        path: md5
        for name, entry in entries.items()
        if _is_unlisted(name, variants.cells["dvc.lock"])
        for path, md5 in entry.out_hashes.items()
        if path.startswith("models/")
    }
    removed, kept = [], []
    for folder in sorted((root / "models").glob("*")):
        path = folder.relative_to(root).as_posix()
        if folder.name in listed or folder.name.startswith("."):
            continue
        if path not in hashes:
            kept.append(f"{path}: no stage makes it, and it is not in dvc.lock")
        elif folder.is_symlink() or tree.md5(path) != hashes[path]:
            kept.append(f"{path}: not as its stage made it")
        else:
            shutil.rmtree(folder)
            removed.append(path)
    for name in {Path(path).name for path in hashes} - {*listed}:
        for raw in [path for each in RAW_FILES for path in (root / "runs").glob(each.format(name))]:
            shutil.rmtree(raw) if raw.is_dir() and not raw.is_symlink() else raw.unlink()
    return removed, kept


def _is_unlisted(name: str, cells: Mapping[str, Collection[str]]) -> bool:
    stage, at, cell = name.partition("@")
    return bool(at) and cell not in cells.get(stage, ())


def _prune_lock(path: Path, cells: Mapping[str, Collection[str]]) -> list[str]:
    """Remove the entries of unlisted cells from a lock file, which is YAML; all others keep their bytes."""
    document = yaml_files.parse_editable(path.read_bytes()) if path.exists() else {}
    stages = (document or {}).get("stages") or {}
    removed = [name for name in stages if _is_unlisted(name, cells)]
    for name in removed:
        del stages[name]
    if removed:
        yaml_files.write(path, yaml_files.dump(document, null=""))
    return removed
