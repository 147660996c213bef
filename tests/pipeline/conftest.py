"""The real graph on toy params, run once for all tests here; what takes minutes more is nightly."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.pipeline import toy_repo
from tests.pipeline.toy_repo import Repo


@dataclass(frozen=True)
class Run:
    """A finished `dvc repro`: its repository, what it printed, the commit made after it, the accuracy, dvc.lock."""

    repo: Repo
    output: str
    commit: str
    accuracy: dict[str, object]
    lock: str


def run_graph(repo: Repo, message: str) -> Run:
    """Run the graph and commit what it changed."""
    output = repo.dvc("repro").stdout
    lock = (repo.path / "dvc.lock").read_text(encoding="utf-8")
    return Run(repo, output, repo.commit(message), repo.accuracy(), lock)


@pytest.fixture(scope="session")
def first(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The whole graph, from nothing. Not to be changed by a test."""
    return run_graph(toy_repo.make(tmp_path_factory.mktemp("graph") / "first"), "first run")


@pytest.fixture(scope="session")
def changed(first: Run, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A copy of the first repository in which one GGUF variant left params.yaml."""
    repo = toy_repo.copy(first.repo, tmp_path_factory.mktemp("graph") / "changed")
    repo.set(lambda params: params["gguf"].pop("q4_k_m"))
    repo.run(sys.executable, "-m", "cartlm.cli", "prune")  # as make repro does
    return run_graph(repo, "without q4_k_m")


def checkpoint(repo: Path) -> Callable[[], bool]:
    """Whether fine-tuning has written its second checkpoint."""
    return lambda: any(repo.glob("runs/finetune/*/checkpoint-2"))


@pytest.fixture(scope="session")
def rebuilt(first: Run, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A clone with the committed dvc.lock, no remote and no models, whose run was killed three times."""
    path = tmp_path_factory.mktemp("graph") / "clone"
    first.repo.run("git", "clone", "-q", str(first.repo.path), str(path))
    repo = Repo(path)
    assert not (path / "models").exists()

    def evaluating() -> bool:
        part = path / "runs/eval/q4_k_m.part.jsonl"
        return part.exists() and part.stat().st_size > 0

    repo.kill_when(checkpoint(path))
    repo.kill_when((path / "runs/quantize/q8_0.log").exists)
    for folder in (
        "eval",
        "outcomes",
    ):  # they came with git: models of the same bytes are not evaluated again
        shutil.rmtree(path / "metrics" / folder)
    repo.kill_when(evaluating)
    return run_graph(repo, "rebuilt")
