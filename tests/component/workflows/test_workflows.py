"""The workflows of GitHub, as far as they can be held without GitHub: what they may do, and that what they name is there."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from tests import ROOT

FOLDER = ROOT / ".github/workflows"
# YAML 1.2, as GitHub reads it: to PyYAML the key `on` is True
FLOWS: dict[str, Any] = {path.stem: YAML(typ="safe", pure=True).load(path) for path in FOLDER.glob("*.yml")}
JOBS = [(flow, job) for flow, content in FLOWS.items() for job in content["jobs"]]
SAME_REPOSITORY = "github.event.pull_request.head.repo.full_name == github.repository"


def steps(flow: str, job: str) -> list[dict[str, Any]]:
    return FLOWS[flow]["jobs"][job]["steps"]


def scripts() -> Iterator[tuple[str, str]]:
    for flow, job in JOBS:
        for step in steps(flow, job):
            if "run" in step:
                yield f"{flow}.yml, {job}", step["run"]


def permissions(flow: str, job: str) -> dict[str, str]:
    found = FLOWS[flow]["jobs"][job].get("permissions", FLOWS[flow]["permissions"])
    assert isinstance(found, dict), f"{flow}.yml, {job}: name each permission"
    return found


def only_dispatched(flow: str, job: str) -> bool:
    """Whether nothing but somebody who may write here, or our own job, can start it."""
    content = FLOWS[flow]["jobs"][job]
    needs = content.get("needs", [])
    before = [needs] if isinstance(needs, str) else needs
    return content.get("if") == "github.event_name == 'workflow_dispatch'" or any(
        only_dispatched(flow, each) for each in before
    )


def test_there_are_four() -> None:
    assert FLOWS.keys() == {"ci", "pr-report", "pr-comment", "bench"}


@pytest.mark.parametrize(("flow", "job"), JOBS)
def test_a_job_has_a_limit_and_states_what_it_may(flow: str, job: str) -> None:
    assert 0 < FLOWS[flow]["jobs"][job]["timeout-minutes"] <= 360
    assert FLOWS[flow]["concurrency"]
    assert FLOWS[flow]["defaults"]["run"]["shell"] == "bash", "else a failure before a pipe is not seen"
    assert "write" not in FLOWS[flow]["permissions"].values(), "write belongs to single jobs"
    permissions(flow, job)


@pytest.mark.parametrize(("flow", "job"), JOBS)
def test_what_a_fork_starts_gets_no_secret_and_writes_nothing(flow: str, job: str) -> None:
    """A job that the code of a pull request runs in reads; one that may write runs none of it."""
    triggers = FLOWS[flow]["on"]
    assert "pull_request_target" not in triggers
    assert not re.search(r"\bsecrets\b", str(FLOWS[flow])), "no workflow needs one"
    if "pull_request" not in triggers or "write" not in permissions(flow, job).values():
        return
    if not only_dispatched(flow, job):
        assert SAME_REPOSITORY in FLOWS[flow]["jobs"][job]["if"]
        assert not [step for step in steps(flow, job) if "uses" in step], "no checkout, no code"


@pytest.mark.parametrize(("flow", "job"), JOBS)
def test_a_machine_of_ours_runs_branches_of_this_repository_alone(flow: str, job: str) -> None:
    runner = FLOWS[flow]["jobs"][job]["runs-on"]
    if runner == "ubuntu-24.04":
        return
    assert flow == "bench"
    assert only_dispatched(flow, job)
    assert "write" not in permissions(flow, job).values()
    (checkout,) = [step for step in steps(flow, job) if step.get("uses", "").startswith("actions/checkout@")]
    assert checkout["with"]["ref"] == "refs/heads/${{ inputs.ref }}"


def test_the_half_that_may_comment_runs_the_default_branch_alone() -> None:
    (job,) = FLOWS["pr-comment"]["jobs"]
    assert list(FLOWS["pr-comment"]["on"]) == ["workflow_run"]
    assert FLOWS["pr-comment"]["on"]["workflow_run"]["workflows"] == [FLOWS["pr-report"]["name"]]
    checkout, script = steps("pr-comment", job)
    assert checkout["with"]["ref"] == "${{ github.event.repository.default_branch }}"
    assert script["run"] == "python3 .github/scripts/comment.py"


def test_who_commits_takes_its_scripts_from_the_default_branch() -> None:
    assert permissions("bench", "commit")["contents"] == "write"
    writers = [each for each in JOBS if permissions(*each).get("contents") == "write"]
    assert writers == [("bench", "commit")]
    runs = "\n".join(step["run"] for step in steps("bench", "commit") if "run" in step)
    assert not re.search(r"\bmake\b|(?<!trusted/)\.github/scripts", runs)


@pytest.mark.parametrize(("flow", "job"), JOBS)
def test_actions_are_github_s_own_at_a_full_version_and_keep_no_token(flow: str, job: str) -> None:
    for step in steps(flow, job):
        if action := step.get("uses"):
            assert re.fullmatch(r"actions/[a-z-]+@(v\d+\.\d+\.\d+|[0-9a-f]{40})", action), action
            if action.startswith("actions/checkout@"):
                assert step["with"]["persist-credentials"] is False


def test_an_action_has_one_version() -> None:
    used = {step["uses"] for each in JOBS for step in steps(*each) if "uses" in step}
    assert len({action.split("@")[0] for action in used}) == len(used)


def test_no_expression_is_put_into_a_script() -> None:
    """The title or the branch of a pull request would become code; env carries it as a value."""
    for where, script in scripts():
        assert "${{" not in script, where


def test_make_targets_and_scripts_are_there() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", makefile, flags=re.MULTILINE))
    named: set[str] = set()
    for where, script in scripts():
        named |= set(re.findall(r"\bmake ([a-z-]+)", script))
        for path in re.findall(r"\.github/scripts/[\w.]+", script):
            assert os.access(ROOT / path, os.R_OK if path.endswith(".py") else os.X_OK), f"{where}: {path}"
    assert named >= {"lint", "test", "stale", "image", "bench"}
    assert named <= targets


@pytest.mark.parametrize("path", sorted((ROOT / ".github/scripts").glob("*.sh")), ids=lambda path: path.name)
def test_shell_scripts_parse(path: Path) -> None:
    assert subprocess.run(["bash", "-n", path]).returncode == 0


def test_scripts_in_workflows_parse() -> None:
    for where, script in scripts():
        done = subprocess.run(["bash", "-n"], input=script, text=True, capture_output=True)
        assert done.returncode == 0, f"{where}: {done.stderr}"


def test_actionlint_finds_nothing() -> None:
    if not shutil.which("actionlint"):
        pytest.skip("actionlint is not here: pip install -r .github/tools.txt")
    done = subprocess.run(["actionlint"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_the_files_that_make_the_cuda_image_are_those_its_job_looks_at() -> None:
    dockerfile = (ROOT / "Dockerfile.gpu").read_text(encoding="utf-8")
    copied = set(re.findall(r"^COPY (docker/\S+)", dockerfile, flags=re.MULTILINE))
    (script,) = [text for _, text in scripts() if "Dockerfile.gpu" in text]
    assert copied
    assert all(path in script for path in copied)


def test_the_tools_are_pinned_with_hashes() -> None:
    asked = [
        line for line in (ROOT / ".github/tools.in").read_text().splitlines() if not line.startswith("#")
    ]
    lock = (ROOT / ".github/tools.txt").read_text()
    assert asked
    for name in asked:
        assert re.search(rf"^{name}==\S+ \\\n    --hash=sha256:", lock, flags=re.MULTILINE), name


def test_an_advisory_is_ignored_with_a_reason() -> None:
    for line in (ROOT / ".github/audit_ignored.txt").read_text().splitlines():
        assert line.startswith("#") or re.match(r"(PYSEC|GHSA|CVE)-\S+ \S+ \S+", line), line


def test_the_report_lies_on_the_commit_that_it_is_about() -> None:
    """Else DVC is not asked, as what lies there is GitHub's merge of the pull request: no stale stage would be told."""
    (checkout,) = [step for step in steps("pr-report", "report") if "checkout" in step.get("uses", "")]
    (compare,) = [step for step in steps("pr-report", "report") if step.get("id") == "compare"]
    assert checkout["with"]["ref"] == compare["env"]["HEAD"]


def test_a_benchmark_s_models_are_fetched_or_made_before_it() -> None:
    runs = [step.get("run", "") for step in steps("bench", "measure")]
    bench = next(at for at, run in enumerate(runs) if "make bench" in run)
    before = "\n".join(runs[:bench])
    assert "-m cartlm.cli pull\n" in before  # outside of the image, where the runner's credentials are
    assert "make repro TARGET=" in before
