"""A real study on the toy graph: killed while it fine-tunes, finished by a second call, shown beside the default model."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.pipeline import toy_repo
from tests.pipeline.conftest import Run
from tests.pipeline.toy_repo import Repo

pytestmark = [pytest.mark.slow, pytest.mark.nightly, pytest.mark.timeout(1800)]
NAME = "tiny-0.1"
PRESET = """
finetune: {max_steps: 3}
gguf:
  q8_0: {type: Q8_0, imatrix: false}
gptq: {}
"""
STUDY = (sys.executable, "-m", "cartlm.cli", "study", NAME)


@pytest.fixture(scope="module")
def repo(first: Run, tmp_path_factory: pytest.TempPathFactory) -> Repo:
    """A copy of the finished toy repository with a preset."""
    repo = toy_repo.copy(first.repo, tmp_path_factory.mktemp("study") / "repo")
    (repo.path / "presets" / f"{NAME}.yaml").write_text(PRESET, encoding="utf-8")
    repo.commit("a preset")
    return repo


@pytest.fixture(scope="module")
def output(repo: Repo) -> str:
    """What the second call printed, after the first was killed with all its children at a checkpoint."""
    worktree = repo.path / "runs/studies" / NAME
    log = repo.path.parent / "killed.log"
    with (
        log.open("wb") as file,
        subprocess.Popen(
            STUDY, cwd=repo.path, env=toy_repo.environment(), start_new_session=True, stdout=file, stderr=file
        ) as process,
    ):
        try:
            while not any(worktree.glob("runs/finetune/*/checkpoint-2")):
                assert process.poll() is None, log.read_text()[-3000:]
                time.sleep(0.005)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
    assert not (repo.path / "results" / NAME).exists()
    return repo.run(*STUDY).stdout


def test_the_second_call_resumes_and_publishes_a_whole_study(repo: Repo, output: str) -> None:
    (resumed_at,) = re.findall(r'"resumed_at": (\d+)', output)
    assert 1 <= int(resumed_at) <= 3
    folder = repo.path / "results" / NAME
    variants = {"baseline", "base", "merged", "f16", "q8_0"}
    assert {path.stem for path in (folder / "metrics/eval").iterdir()} == variants
    assert {path.stem for path in (folder / "metrics/outcomes").iterdir()} == variants
    assert (folder / "metrics/bench/cpu/rounds.csv").stat().st_size > 0
    assert not (folder / "models").exists()
    about = json.loads((folder / "study.json").read_text("utf-8"))
    assert about["commit"] == repo.run("git", "rev-parse", "HEAD").stdout.strip()
    assert about["left_out"] == ""
    assert about["machine"]["hash"] == repo.json("metrics/eval/f16.json")["machine"]["hash"]
    assert {"finetune", "merge", "eval@q8_0", "bench-cpu"} <= about["seconds"].keys()
    assert about["seconds"]["finetune"] > 0
    steps = (folder / "metrics/finetune.csv").read_text("utf-8").splitlines()
    assert [line.split(",")[0] for line in steps[1:]] == ["1", "2", "3"]


def test_the_default_model_is_as_it_was(first: Run, repo: Repo, output: str) -> None:
    assert repo.run("git", "status", "--porcelain").stdout.split() == ["??", f"results/{NAME}/"]
    assert repo.accuracy() == first.accuracy


def test_what_the_main_graph_made_alike_came_from_the_shared_cache(repo: Repo, output: str) -> None:
    assert not (repo.path / "runs/studies" / NAME / ".dvc/cache").exists()
    seconds = json.loads((repo.path / "results" / NAME / "study.json").read_text("utf-8"))["seconds"]
    assert "base" not in seconds, "its code and params are the default's"


def test_a_third_call_has_nothing_to_do(repo: Repo, output: str) -> None:
    again = repo.run(*STUDY).stdout
    assert "Running stage" not in again
    assert f"results/{NAME} has these numbers already" in again


def test_the_tables_show_it_beside_the_default_and_stale_knows_its_state(
    repo: Repo, output: str, tmp_path: Path
) -> None:
    copy = toy_repo.copy(repo, tmp_path / "copy", "runs", "models", ".dvc/cache")
    cartlm = (sys.executable, "-m", "cartlm.cli")
    copy.run(*cartlm, "readme-table")
    assert f"| {NAME} |" in (copy.path / "README.md").read_text("utf-8")
    assert f"\n## {NAME}\n" in (copy.path / "docs/studies.md").read_text("utf-8")
    assert (
        "| q8_0 |" in (copy.path / "docs/paper.md").read_text("utf-8").partition("## Where the cliff is")[2]
    )
    assert copy.run(*cartlm, "readme-table", "--check", check=False).returncode == 0
    assert f"\n{NAME}: " in copy.run(*cartlm, "table").stdout
    copy.commit("a study")
    assert f"  {NAME}: as its code and params are today" in copy.run(*cartlm, "stale").stdout
    shown = json.loads(copy.dvc("metrics", "show", "--json").stdout)[""]["data"]
    assert f"results/{NAME}/metrics/eval/q8_0.json" in shown
    assert all("error" not in values for values in shown.values())
    copy.set(lambda params: params["finetune"].update(learning_rate=0.5))
    assert f"  {NAME}: older than param finetune;" in copy.run(*cartlm, "stale", check=False).stdout
    assert copy.run(*cartlm, "readme-table", "--check", check=False).returncode == 1
    copy.run(*cartlm, "readme-table")
    assert f"| {NAME}† |" in (copy.path / "README.md").read_text("utf-8")
