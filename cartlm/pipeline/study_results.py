"""Finished studies: what `results/` has of each, and whether code or params changed since.

A study is a preset run beside the default (`cartlm.pipeline.studies`). `results/NAME/` has its files that git keeps, under
the names that the main graph has for its own: params.yaml, dvc.lock, metrics/, docs/; and study.json.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cartlm.errors import UserError
from cartlm.files import write_text
from cartlm.metrics import parse_metrics
from cartlm.pipeline import dvc_lock, presets, stale
from cartlm.pipeline.repository import Tree, run_git
from cartlm.text import few

RESULTS = "results"
RECORD = "study.json"
LEFT_OUT = ("quantize-gguf", "quantize-gptq", "eval", "eval-gptq", "bench-cpu", "bench-decoding", "summarize")
"""Stages without which a study is published: quantized variants and speeds may follow, each when it is measured."""
INPUTS = (
    "params.yaml", "dvc.yaml", ".dvcignore", "presets", "cartlm", "stages", "docker", "base", "gpu", "remote", "architecture",
    ":(exclude,glob)**/dvc.lock",
)  # fmt: skip
"""Pathspecs of git: what the commit must have of a study; documents and numbers may differ from it."""
NOT_READ = ("metrics/", "results/", "docs/", "tests/", "README.md")
"""What no stage of the main graph reads of a checkout, or only as another stage has made it."""
DVC_CONFIG = "[core]\n    no_scm = true\n    analytics = false\n    site_cache_dir = {0}/.dvc/site\n"


@dataclass(frozen=True)
class Study:
    """One folder of results/."""

    name: str
    folder: Path
    record: dict[str, Any]  # study.json
    params: dict[str, Any]
    # origin of its base model, as metrics/merge.json has it
    base: dict[str, Any] = field(default_factory=dict)

    @property
    def metrics(self) -> Path:
        return self.folder / "metrics"

    @property
    def variants(self) -> list[str]:
        """The variants of its params that were evaluated: first the unquantized ones."""
        listed = (
            str(name) for section in ("reference", "gguf", "gptq") for name in self.params.get(section) or ()
        )
        return [name for name in listed if (self.metrics / f"eval/{name}.json").exists()]

    @property
    def left_out(self) -> list[str]:
        return str(self.record.get("left_out", "")).split()


def names(tree: Tree) -> list[str]:
    """The studies of a commit or of the workspace, sorted: folders of results/ with a study.json."""
    return [name for name in tree.folders(RESULTS) if tree.read(f"{RESULTS}/{name}/{RECORD}") is not None]


def read_all(root: Path) -> list[Study]:
    """The studies of the workspace. Raises UserError for a file that is not what `make study` wrote."""
    return [read(root, name) for name in names(Tree(root))]


def read(root: Path, name: str) -> Study:
    """One study of the workspace. Raises UserError for a file that is not what `make study` wrote."""
    tree = Tree(root, below=f"{RESULTS}/{name}")
    record, merge = (
        parse_metrics(tree.read(file) or b"{}", *tree.place(file)) for file in (RECORD, "metrics/merge.json")
    )
    base = merge.get("base")
    origin = base if isinstance(base, dict) else {}
    return Study(name, root / RESULTS / name, record, tree.yaml("params.yaml"), origin)


def find_stale(root: Path, studies: Sequence[Study]) -> dict[str, dict[str, list[str]]]:
    """Study -> stage -> what changed since it was run; a study of which nothing changed has no stage.

    Raises UserError where git does not list the checkout's files.
    """
    found: dict[str, dict[str, list[str]]] = {}
    code = code_files(root) if studies else []
    for study in studies:
        try:
            with shadow(root, code, study) as folder:
                late = stale.find_stale(folder).stale
        except UserError as error:  # a preset or a lock that DVC cannot read
            late = {"all stages": [error.message]}
        never = {name for name in study.left_out if late.get(name) == [stale.NEVER_RUN]}
        found[study.name] = {name: why for name, why in late.items() if name not in never}
    return found


def code_files(root: Path) -> list[str]:
    """The paths of a checkout that a study's stages may read: tracked ones, and untracked ones of INPUTS.

    Any other untracked file may be a model of gigabytes. Raises UserError where git does not work.
    """
    paths: list[str] = []
    for which in (["--cached"], ["--others", "--exclude-standard", "--", *INPUTS]):
        done = run_git(root, "ls-files", "-z", *which)
        if done.returncode:
            said = (done.stderr.strip() or "it failed").splitlines()[-1]
            what = (
                f"git lists no files here, so nobody knows whether the studies are of today's code ({said})"
            )
            raise UserError(what, "git status")
        paths += done.stdout.split("\0")
    kept = [path for path in paths if path.endswith(".gitkeep") or not path.startswith(NOT_READ)]
    # Other pipeline files have their own hardware and their own numbers.
    return [
        path for path in kept if not path.endswith(("dvc.lock", "/dvc.yaml")) and not path.startswith(".dvc/")
    ]


@contextmanager
def shadow(root: Path, code: Iterable[str], study: Study) -> Iterator[Path]:
    """A temporary DVC repository: today's code, the preset over today's params, the study's dvc.lock and outputs.

    `code` are the paths to copy. DVC itself compares them there as it does for the main graph; nothing needs to be run,
    fetched or here. Raises UserError where the preset is gone or is no YAML.
    """
    preset = root / "presets" / f"{study.name}.yaml"
    if not preset.is_file():
        raise UserError(f"presets/{study.name}.yaml is gone")
    params, _ = presets.lay_over(root / "params.yaml", preset)
    with tempfile.TemporaryDirectory(prefix="cartlm-study-") as name:
        folder = Path(name)
        for path in code:
            if (root / path).is_file():
                (folder / path).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(root / path, folder / path)
        shutil.copytree(study.folder, folder, dirs_exist_ok=True)
        for other in folder.glob("*/dvc.lock"):
            other.unlink()
        for path in {path for stage in dvc_lock.read_stages(Tree(folder)).values() for path in stage.hashes}:
            if path.startswith("metrics/") and not Path(path).suffix:
                (folder / path).mkdir(parents=True, exist_ok=True)  # git keeps no empty one
        write_text(folder / "params.yaml", params)
        write_text(folder / ".dvc/config", DVC_CONFIG.format(folder))
        run_git(folder, "init", "-q")  # `git check-ignore` then knows what a checkout is meant to lack
        yield folder


def format_stale(found: Mapping[str, Mapping[str, list[str]]]) -> list[str]:
    """A line a study."""
    lines = []
    for name, late in found.items():
        reasons = list(dict.fromkeys(why for each in late.values() for why in each))
        what = (
            f"older than {few(reasons, 6)}; next: make study NAME={name}"
            if late
            else "as its code and params are today"
        )
        lines.append(f"{name}: {what}")
    return lines
