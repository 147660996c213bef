"""The variants that params.yaml lists, and removing what is left of those that it lists no longer.

A cell that left params.yaml has no stage any more, so DVC keeps its metrics, its model and its entry in dvc.lock. The
stages bench-cpu and summarize remove such metrics (`prune_metrics`); `cartlm prune`, which `make repro` runs before DVC,
removes models and lock entries too (`prune`).
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from cartlm.files import write_text
from cartlm.pipeline import dvc_lock
from cartlm.pipeline.repository import Tree

OTHER_MODELS = ("baseline", "base", "adapter", "merged", "f16", "architecture")
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
        """All variants: first the baseline and the unquantized ones."""
        return [*self.reference, *self.gguf, *self.gptq]

    def lists(self, stage: str) -> bool:
        """Whether a stage of a dvc.lock, `gpu/dvc.yaml:bench-gpu` or `eval@q8_0`, is no cell, or one of these names."""
        cells = {
            "quantize-gguf": self.gguf,
            "eval": self.gguf,
            "quantize-gptq": self.gptq,
            "eval-gptq": self.gptq,
            "eval-reference": self.reference,
            "remote/dvc.yaml:eval-remote": self.remote,
            "architecture/dvc.yaml:quantize": self.architecture_types,
        }
        name, at, cell = stage.partition("@")
        return not at or cell in cells.get(name, ())


def prune_metrics(root: Path, variants: Variants) -> list[str]:
    """Remove metrics files of variants and servers that are not listed; returns their paths."""
    folders: dict[str, Collection[str]] = {
        "quantize": variants.gguf,
        "gptq": variants.gptq,
        "eval": variants.names,
        "outcomes": variants.names,
        "exact": variants.names,
        "bench/cpu": ("baseline", "f16", *variants.gguf, "reference", "machine", "rounds"),
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

    A model is removed only if dvc.lock has it from such a cell, unchanged, and DVC's cache has it too.
    Paid answers (data/answers) stay. Returns what was removed, and which models stay, with the reason.
    """
    from dvc.utils.serialize import dumps_yaml, parse_yaml_for_update

    metrics = prune_metrics(root, variants)
    tree = Tree(root)
    stages = dvc_lock.read_stages(tree)
    unlisted = [name for name in stages if not variants.lists(name)]
    ours = [stages[name] for name in unlisted if ":" not in name]  # of the main graph
    made = {path: md5 for stage in ours for path, md5 in stage.out_hashes.items()}
    # Models first: a run that is killed in between finds them in the lock again.
    models, kept = _prune_models(tree, made, (*OTHER_MODELS, *variants.names))
    for file, names in groupby(unlisted, key=lambda name: name.rpartition(":")[0]):
        path = root / (file.replace(".yaml", ".lock") or "dvc.lock")
        document = parse_yaml_for_update(path.read_text(encoding="utf-8"), str(path))
        for name in names:
            del document["stages"][name.rpartition(":")[2]]
        write_text(path, dumps_yaml(document))  # as DVC writes it, but whole or not at all
    return metrics + models + [name.rpartition(":")[2] for name in unlisted], kept


def _is_cached(root: Path, md5: str) -> bool:
    """Whether DVC's cache has an output: for a folder, all of its files."""
    from cartlm.pipeline.dvc_remote import open_repo

    with open_repo(root, "dvc status") as repo:
        odb = repo.cache.local
        listing = Path(odb.oid_to_path(md5))
        if not listing.is_file():
            return False
        files = json.loads(listing.read_text("utf-8")) if md5.endswith(".dir") else []
        return all(odb.exists(file["md5"]) for file in files)


def _prune_models(
    tree: Tree, made: Mapping[str, str], listed: Collection[str]
) -> tuple[list[str], list[str]]:
    """`made`: path -> hash of what unlisted cells made."""
    removed, kept = [], []
    for folder in sorted((tree.root / "models").glob("*")):
        path = f"models/{folder.name}"
        if folder.name in listed or folder.name.startswith("."):
            continue
        if path not in made:
            kept.append(f"{path}: no stage makes it, and it is not in dvc.lock")
        elif folder.is_symlink() or tree.md5(path) != made[path]:
            kept.append(f"{path}: not as its stage made it")
        elif not _is_cached(tree.root, made[path]):
            kept.append(f"{path}: DVC's cache has no copy")
        else:
            shutil.rmtree(folder)
            removed.append(path)
    for name in {Path(path).name for path in made} - {*listed}:
        for raw in [path for each in RAW_FILES for path in (tree.root / "runs").glob(each.format(name))]:
            shutil.rmtree(raw) if raw.is_dir() and not raw.is_symlink() else raw.unlink()
    return removed, kept
