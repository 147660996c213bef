"""`kill -9` in the middle, then `dvc repro`: the models and the accuracy of an undisturbed run."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from tests.pipeline import toy_repo
from tests.pipeline.conftest import Run, checkpoint

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


def hashes(lock: str) -> dict[str, str]:
    """The MD5 of every model and data file in a dvc.lock."""
    stages = yaml.safe_load(lock)["stages"].values()
    outs = {out["path"]: out["md5"] for stage in stages for out in stage["outs"]}
    return {path: digest for path, digest in outs.items() if path.startswith(("models/", "data/"))}


@pytest.mark.nightly  # without DVC: tests/component/training/test_qlora.py
def test_killed_finetuning_resumes_and_makes_the_same_adapter(first: Run, tmp_path: Path) -> None:
    """It resumes at a checkpoint, with the same order of rows and the same optimizer state."""
    repo = toy_repo.copy(first.repo, tmp_path / "killed", "runs", ".dvc/cache", "models/adapter")
    repo.kill_when(checkpoint(repo.path), "finetune")
    output = repo.dvc("repro", "finetune").stdout
    (resumed_at,) = re.findall(r'"resumed_at": (\d+)', output)
    assert 1 <= int(resumed_at) <= 4  # the kill may have cut the second checkpoint
    lines = (repo.path / "metrics/finetune.csv").read_text(encoding="utf-8").splitlines()
    assert [line.split(",")[0] for line in lines[1:]] == ["1", "2", "3", "4"]
    assert hashes((repo.path / "dvc.lock").read_text(encoding="utf-8")) == hashes(first.lock)


@pytest.mark.nightly
class TestKilledInThreeStages:
    def test_accuracy_equals_that_of_an_undisturbed_run(self, first: Run, rebuilt: Run) -> None:
        assert rebuilt.accuracy.keys() == first.accuracy.keys()
        for name, values in first.accuracy.items():
            assert rebuilt.accuracy[name] == values, name

    def test_models_are_the_same_bytes(self, first: Run, rebuilt: Run) -> None:
        assert hashes(rebuilt.lock) == hashes(first.lock)

    def test_nothing_half_written_remains(self, rebuilt: Run) -> None:
        folders = [rebuilt.repo.path / name for name in ("models", "metrics", "data")]
        assert [path for folder in folders for path in folder.rglob("*tmp*")] == []
