"""The real graph on toy params, run once for all tests here: first, changed, and rebuilt in a clone after kills."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace

import pytest

from tests.pipeline import toy_repo
from tests.pipeline.toy_repo import Repo


@dataclass(frozen=True)
class Step:
    """A state of a repository: what `dvc repro` said, the commit, and the accuracy then."""

    repo: Repo
    said: str
    commit: str
    accuracy: dict[str, object]
    lock: str
    before: str = ""  # what a killed run before it had said


def step(repo: Repo, message: str) -> Step:
    """Run the graph, take stock, commit."""
    said = repo.dvc("repro").stdout
    accuracy, lock = repo.accuracy(), (repo.path / "dvc.lock").read_text(encoding="utf-8")
    return Step(repo, said, repo.commit(message), accuracy, lock)


@pytest.fixture(scope="session")
def first(tmp_path_factory: pytest.TempPathFactory) -> Step:
    """The whole graph, from nothing. Not to be changed by a test."""
    return step(toy_repo.make(tmp_path_factory.mktemp("graph") / "first"), "first run")


@pytest.fixture(scope="session")
def changed(first: Step, tmp_path_factory: pytest.TempPathFactory) -> Step:
    """A copy of the first repository in which one GGUF variant left params.yaml."""
    repo = toy_repo.copy(first.repo, tmp_path_factory.mktemp("graph") / "changed")
    repo.set(lambda params: params["gguf"].pop("q4_k_m"))
    return step(repo, "without q4_k_m")


@pytest.fixture(scope="session")
def rebuilt(first: Step, tmp_path_factory: pytest.TempPathFactory) -> Step:
    """A clone with the committed dvc.lock, no remote and no models, whose run was killed three times."""
    path = tmp_path_factory.mktemp("graph") / "clone"
    first.repo.run("git", "clone", "-q", str(first.repo.path), str(path))
    repo = Repo(path)
    assert not (path / "models").exists()

    def finetuning() -> bool:
        return any(path.glob("runs/finetune/*/checkpoint-2"))

    def quantizing() -> bool:
        return (path / "runs/quantize/q8_0.log").exists()

    def evaluating() -> bool:
        part = path / "runs/eval/q4_k_m.part.jsonl"
        return part.exists() and part.stat().st_size > 0

    repo.kill_when(finetuning)
    resumed = repo.kill_when(quantizing)
    for folder in (
        "eval",
        "outcomes",
    ):  # they came with git, and models of the same bytes are not evaluated again
        shutil.rmtree(path / "metrics" / folder)
    repo.kill_when(evaluating)
    return replace(step(repo, "rebuilt"), before=resumed)
