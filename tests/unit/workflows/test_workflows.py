"""What the workflows of GitHub may do, beyond what zizmor and actionlint check: who writes, what runs where."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
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


def scripts() -> Iterator[str]:
    for each in JOBS:
        yield from (step["run"] for step in steps(*each) if "run" in step)


def permissions(flow: str, job: str) -> dict[str, str]:
    return FLOWS[flow]["jobs"][job].get("permissions", FLOWS[flow]["permissions"])


def only_dispatched(flow: str, job: str) -> bool:
    """Whether nothing but somebody who may write here, or our own job, can start it."""
    content = FLOWS[flow]["jobs"][job]
    needs = content.get("needs", [])
    before = [needs] if isinstance(needs, str) else needs
    condition = content.get("if", "")
    own = re.match(r"github\.event_name == '(workflow_dispatch|schedule)'($| &&)", condition)
    return bool(own and "||" not in condition.partition("(")[0]) or any(
        only_dispatched(flow, each) for each in before
    )


@pytest.mark.parametrize(("flow", "job"), JOBS)
def test_a_job_ends_and_names_each_permission(flow: str, job: str) -> None:
    assert 0 < FLOWS[flow]["jobs"][job]["timeout-minutes"] <= 360
    assert FLOWS[flow]["defaults"]["run"]["shell"] == "bash", "else a failure before a pipe is not seen"
    assert "write" not in FLOWS[flow]["permissions"].values(), "write belongs to single jobs"
    assert isinstance(permissions(flow, job), dict)


@pytest.mark.parametrize(("flow", "job"), JOBS)
def test_what_a_fork_starts_gets_no_secret_and_writes_nothing(flow: str, job: str) -> None:
    """A job that runs the code of a pull request reads; one that may write runs none of it."""
    triggers = FLOWS[flow]["on"]
    assert not re.search(r"\bsecrets\b", str(FLOWS[flow])), "no workflow needs one"
    if "pull_request" not in triggers or "write" not in permissions(flow, job).values():
        return
    if not only_dispatched(flow, job):
        assert SAME_REPOSITORY in FLOWS[flow]["jobs"][job]["if"]
        assert not [step for step in steps(flow, job) if "uses" in step], "no checkout, no code"


@pytest.mark.parametrize(("flow", "job"), JOBS)
def test_a_machine_of_ours_runs_branches_of_this_repository_alone(flow: str, job: str) -> None:
    if FLOWS[flow]["jobs"][job]["runs-on"] == "ubuntu-24.04":
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


def test_the_job_that_commits_takes_its_scripts_from_the_default_branch() -> None:
    writers = [each for each in JOBS if permissions(*each).get("contents") == "write"]
    assert writers == [("bench", "commit")]
    runs = "\n".join(step["run"] for step in steps("bench", "commit") if "run" in step)
    assert not re.search(r"\bmake\b|(?<!trusted/)\.github/scripts", runs)


def test_a_schedule_measures_only_where_a_variable_asks_for_it() -> None:
    assert "schedule" in FLOWS["bench"]["on"]
    scheduled = [
        job for job in FLOWS["bench"]["jobs"] if "schedule" in FLOWS["bench"]["jobs"][job].get("if", "")
    ]
    assert scheduled == ["nightly"]
    assert "vars.CARTLM_BENCH_NIGHTLY ==" in FLOWS["bench"]["jobs"]["nightly"]["if"]
    (ask,) = steps("bench", "nightly")
    asked = set(re.findall(r"-f (\w+)=", ask["run"]))
    assert asked <= FLOWS["bench"]["on"]["workflow_dispatch"]["inputs"].keys()
    assert "into" in asked  # nothing is pushed to the default branch


def test_make_targets_and_scripts_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", makefile, flags=re.MULTILINE))
    for script in scripts():
        assert set(re.findall(r"\bmake ([a-z-]+)", script)) <= targets
        for path in re.findall(r"\.github/scripts/[\w.]+", script):
            assert os.access(ROOT / path, os.R_OK if path.endswith(".py") else os.X_OK), path


def test_the_files_that_make_the_cuda_image_are_those_its_job_looks_at() -> None:
    dockerfile = (ROOT / "Dockerfile.gpu").read_text(encoding="utf-8")
    lines = re.findall(r"^COPY ((?!--from|\. ).+) \S+$", dockerfile, flags=re.MULTILINE)
    copied = {path for line in lines for path in line.split()}
    (script,) = [script for script in scripts() if "Dockerfile.gpu" in script]
    assert {"docker/serve.txt", "docker/entrypoint.py"} <= copied
    assert copied <= set(re.findall(r"[\w./-]+", script))


def test_an_advisory_is_ignored_with_a_reason() -> None:
    for line in (ROOT / ".github/audit_ignored.txt").read_text().splitlines():
        assert line.startswith("#") or re.match(r"(PYSEC|GHSA|CVE)-\S+ \S+ \S+", line), line


def test_the_report_checks_out_the_commit_that_it_is_about() -> None:
    """GitHub's merge of the pull request would hide stale stages: DVC compares with the checkout."""
    (checkout,) = [step for step in steps("pr-report", "report") if "checkout" in step.get("uses", "")]
    (compare,) = [step for step in steps("pr-report", "report") if step.get("id") == "compare"]
    assert checkout["with"]["ref"] == compare["env"]["HEAD"]


def test_a_benchmark_s_models_are_fetched_or_made_before_it() -> None:
    runs = [step.get("run", "") for step in steps("bench", "measure")]
    bench = next(number for number, run in enumerate(runs) if "make bench" in run)
    before = "\n".join(runs[:bench])
    assert "-m cartlm.cli pull\n" in before  # outside of the image, where the runner's credentials are
    assert "make repro TARGET=" in before
