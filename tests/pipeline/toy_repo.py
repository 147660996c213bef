"""A git and DVC repository of its own with this working tree's code, toy params and a toy base model."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tests.fixtures import fixed_params, working_tree
from tests.fixtures.toy import make_toy_model

LEFT_OUT = re.compile(r"(data|models|runs|metrics|base/model|tests|docs|results/[^/]+)/|(.+/)?dvc\.lock$")
"""What was made or measured, and what no stage needs."""
TOY: dict[str, dict[str, Any]] = {
    "data": {"train": 60, "validation": 9, "calibration": 12, "test": 24},
    "finetune": {"max_steps": 4, "batch_size": 4, "save_steps": 1},
    "merge": {"check_rows": 3, "min_agreement": 0.0},
    "parity": {"rows": 24},
    "eval": {
        "max_new_tokens": 8,
        "batch_size": 8,
        "flip_rows": 4,
        "natural_rows": 6,
        "shots": {"count": 2, "seed": 7, "rows": 6},
    },
    "bench_cpu": {
        "rounds": 2,
        "queries": 2,
        "max_spread": 99.0,
        "served_rounds": 1,
        "served_queries": 2,
        "harness_rounds": 1,
    },
    "bench_decoding": {"variant": "f16", "sessions": 2, "messages": 2},
    "gguf": {"q8_0": {"type": "Q8_0", "imatrix": False}, "q4_k_m": {"type": "Q4_K_M", "imatrix": True}},
    "gptq": {"int4-g32": {"bits": 4, "group_size": 32, "symmetric": True, "act_order": False, "damp": 0.05}},
}
GATES = {"balance": 1.0, "template_share": 1.0, "distinct_2": 0.0, "near_duplicate": 1.0, "twins": 0.0}


@dataclass(frozen=True)
class Repo:
    """A repository's folder and what tests do in it."""

    path: Path

    def run(self, *command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a command in the repository with the virtual environment first on PATH, as the Makefile does."""
        done = subprocess.run(command, cwd=self.path, env=environment(), capture_output=True, text=True)
        assert not check or done.returncode == 0, f"{command}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        return done

    def dvc(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        return self.run(sys.executable, "-m", "dvc", *arguments, check=check)

    def commit(self, message: str) -> str:
        """Commit everything that git does not ignore; returns the commit."""
        self.run("git", "add", "-A")
        self.run("git", "commit", "-q", "--allow-empty", "-m", message)
        return self.run("git", "rev-parse", "HEAD").stdout.strip()

    def params(self) -> dict[str, Any]:
        return yaml.safe_load((self.path / "params.yaml").read_text(encoding="utf-8"))

    def set(self, change: Callable[[dict[str, Any]], object]) -> None:
        """Change params.yaml in place."""
        values = self.params()
        change(values)
        (self.path / "params.yaml").write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")

    def json(self, name: str) -> dict[str, Any]:
        return json.loads((self.path / name).read_text(encoding="utf-8"))

    def accuracy(self) -> dict[str, Any]:
        """Everything about accuracy in metrics/: no speed, no machine."""
        files = sorted((self.path / "metrics" / "eval").glob("*.json"))
        values: dict[str, Any] = {path.name: _accuracy(json.loads(path.read_text("utf-8"))) for path in files}
        for path in sorted((self.path / "metrics" / "outcomes").glob("*.csv")):
            values[path.name] = path.read_text(encoding="utf-8")
        return values

    def kill_when(self, ready: Callable[[], bool], *targets: str, timeout_s: float = 1200) -> None:
        """Start `dvc repro` and `kill -9` it with all its children once `ready`; fails if it ends before."""
        log = self.path.parent / "killed.log"
        with (
            log.open("wb") as file,
            subprocess.Popen(
                [sys.executable, "-m", "dvc", "repro", *targets], cwd=self.path, env=environment(),
                start_new_session=True, stdout=file, stderr=subprocess.STDOUT,
            ) as process,
        ):  # fmt: skip
            deadline = time.monotonic() + timeout_s
            try:
                while not ready():
                    assert process.poll() is None, f"ended before the kill:\n{log.read_text()[-3000:]}"
                    assert time.monotonic() < deadline, (
                        f"never ready to be killed:\n{log.read_text()[-3000:]}"
                    )
                    time.sleep(0.005)
            finally:
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)
            assert process.wait() == -signal.SIGKILL


def _accuracy(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: values[name] for name in ("free", "free_slices", "header") if name in values}


def environment() -> dict[str, str]:
    """The environment of a command in a toy repository: this interpreter's folder first, a fixed git author."""
    who = {
        f"GIT_{role}_{what}": "toy@example.invalid"
        for role in ("AUTHOR", "COMMITTER")
        for what in ("NAME", "EMAIL")
    }
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return {**os.environ, **who, "PATH": path, "HF_HUB_OFFLINE": "1", "DVC_NO_ANALYTICS": "1"}


def copy_code(folder: Path) -> Repo:
    """This working tree's code, without git."""
    return Repo(working_tree.copy(folder, left_out=LEFT_OUT))


def toy_params() -> dict[str, Any]:
    """The offline defaults with few rows, steps and variants."""
    values = fixed_params.values()
    for section, changes in TOY.items():
        values[section] = changes if section in ("gguf", "gptq") else {**values[section], **changes}
    values["data"]["gates"] = GATES
    return values


def make(folder: Path) -> Repo:
    """The repository in `folder`, committed, nothing run yet."""
    repo = copy_code(folder)
    (folder / "params.yaml").write_text(yaml.safe_dump(toy_params(), sort_keys=False), encoding="utf-8")
    make_toy_model(folder / "base" / "model", hidden=256, steps=10)
    repo.run("git", "init", "-q", "-b", "main")
    repo.commit("toy")
    return repo


def link_large(source: str, target: str) -> None:
    """Hard-link models and DVC's cache, which nobody changes in place; copy the rest."""
    if "/models/" in source or "/.dvc/cache/files/" in source:
        os.link(source, target)
    else:
        shutil.copy2(source, target)


def copy(repo: Repo, folder: Path, *left_out: str) -> Repo:
    """A copy of a repository, models and cache included, without the paths `left_out`."""

    def ignore(at: str, names: list[str]) -> set[str]:
        relative = Path(at).relative_to(repo.path)
        return {name for name in names if (relative / name).as_posix() in left_out}

    shutil.copytree(repo.path, folder, symlinks=True, ignore=ignore, copy_function=link_large)
    return Repo(folder)
