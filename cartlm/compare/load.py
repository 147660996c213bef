"""Two commits, or a commit and the workspace, as `cartlm compare` needs them.

Metrics and params come from `dvc metrics diff` and `dvc params diff`; outcomes, and the hash of the test rows
they rest on, from git alone: no models, no data and no DVC cache are needed.
"""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cartlm import yaml_files
from cartlm.compare import rules
from cartlm.errors import UserError
from cartlm.metrics import Outcome, parse_outcomes
from cartlm.pipeline import dvc_lock
from cartlm.pipeline.repository import (
    check_repository,
    dvc_md5,
    list_files,
    read_file,
    resolve_commit,
    run_dvc,
)
from cartlm.system import processes

WORKSPACE = "workspace"
OUTCOMES = dvc_lock.OUTCOMES
Files = dict[str, dict[str, Any]]
"""Metrics file -> dotted key -> value."""


@dataclass(frozen=True)
class Side:
    """What one of the two compared states says."""

    name: str  # the first digits of the commit, or `workspace`
    metrics: Files
    outcomes: dict[str, list[Outcome]] = field(default_factory=dict)  # variant -> its rows
    rows: dict[str, str] = field(default_factory=dict)  # variant -> hash of its test rows, as dvc.lock tells
    stages: dict[str, dvc_lock.Stage] = field(default_factory=dict)
    outdated: dict[str, list[str]] = field(default_factory=dict)  # stage -> what changed since it was run


@dataclass(frozen=True)
class ParamChange:
    """A changed value of params.yaml; None is a key that one side lacks."""

    file: str
    key: str
    old: Any
    new: Any


def read(root: Path, old: str, new: str | None) -> tuple[Side, Side, list[ParamChange]]:
    """Both sides, and what differs in their params. `new` None is the workspace.

    Raises UserError outside of a git and DVC repository, for a revision that is not there, for one without
    metrics and for a metrics file that is not JSON.
    """
    check_repository(root)
    olds, news = resolve_commit(root, old), resolve_commit(root, new) if new is not None else None
    for commit, given in ((olds, olds[:8]), (news, news[:8] if news else WORKSPACE)):
        not_yaml(root, commit, given)
    with ThreadPoolExecutor() as pool:  # two programs, each some seconds
        diff = pool.submit(dvc_diff, root, "params", olds, news)
        metrics, said = dvc_diff(root, "metrics", olds, news, "--all")
        changed, _ = diff.result()
    sides = []
    for which, commit, given in (("old", olds, old), ("new", news, new or WORKSPACE)):
        files = one_side(metrics, which)
        name = commit[:8] if commit else WORKSPACE
        unreadable(root, commit, name, set(files))
        unsound(files, commit, name)
        if not files:
            asked = f"the {WORKSPACE}" if commit is None else f"{given} ({name})"
            if any(path.endswith(".json") for path in list_files(root, commit, "metrics")):
                raise UserError(f"DVC reads no metrics of {asked}: {said}", "dvc metrics show")
            raise UserError(
                f"{asked} has no metrics", "make repro" if commit is None else "git log --oneline -- metrics"
            )
        sides.append(Side(name, files, outcomes(root, commit, name), *locked(root, commit, name)))
    params = [
        ParamChange(file, key, values.get("old"), values.get("new"))
        for file, keys in sorted(changed.items(), key=lambda item: (item[0] != "params.yaml", item[0]))
        for key, values in sorted(keys.items())
    ]
    return sides[0], sides[1], params


def dvc_diff(root: Path, what: str, old: str, new: str | None, *options: str) -> tuple[Files, str]:
    """What `dvc metrics diff --json` or `dvc params diff --json` says: file -> key -> old and new, and its warnings.

    It warns, and ends with 0, where it can read nothing.
    """
    done = run_dvc(root, what, "diff", "--json", *options, old, *([new] if new else []))
    try:
        if done.returncode != 0:
            raise ValueError
        return json.loads(done.stdout), " ".join(done.stderr.split())
    except ValueError:
        said = (done.stderr or done.stdout).strip().splitlines()
        raise UserError(
            f"dvc {what} diff failed: {said[0] if said else processes.ended(done.returncode)}",
            f"dvc {what} diff {old[:8]}",
        ) from None


def one_side(diff: Files, which: str) -> Files:
    """The files and values of the `old` or `new` side of a `dvc metrics diff`; null is a key that it lacks."""
    files = {
        file: {key: both[which] for key, both in keys.items() if both.get(which) is not None}
        for file, keys in diff.items()
    }
    return {file: keys for file, keys in sorted(files.items()) if keys}


def text(root: Path, commit: str | None, path: str) -> str:
    """The same as text; empty where it is not there."""
    return (read_file(root, commit, path) or b"").decode("utf-8", errors="replace")


def locked(
    root: Path, commit: str | None, name: str
) -> tuple[dict[str, str], dict[str, dvc_lock.Stage], dict[str, list[str]]]:
    """The hashes of the test rows, the stages as they were run, and those that are outdated."""

    def read(path: str) -> bytes | None:
        return read_file(root, commit, path)

    stages = dvc_lock.read_stages(read, name)
    return (
        dvc_lock.row_hashes(stages),
        stages,
        dvc_lock.outdated_stages(stages, read, lambda path: dvc_md5(root, commit, path)),
    )


def told(path: str, commit: str | None, name: str) -> tuple[str, str]:
    """A broken file in the words of a message, and the command that helps: a commit's is not mended by a checkout."""
    return (f"{path} of {name}", f"git show {name}:{path}") if commit else (path, f"git checkout {path}")


def unreadable(root: Path, commit: str | None, name: str, known: set[str]) -> None:
    """Raises UserError for a metrics file that DVC left out as it is no JSON object: it does so in silence."""
    for path in list_files(root, commit, "metrics"):
        if path.endswith(".json") and path not in known:
            what, next = told(path, commit, name)
            try:
                values = json.loads(text(root, commit, path))
            except ValueError as error:
                raise UserError(f"{what} is not JSON: {error}", next) from None
            if not isinstance(values, dict):
                raise UserError(f"{what} is no JSON object", next)


def unsound(files: Files, commit: str | None, name: str) -> None:
    """Raises UserError for a value in a judged metrics file that no stage writes."""
    for file, values in files.items():
        target, _ = rules.place(file)
        if target and (wrong := rules.unsound(values, target)):
            what, next = told(file, commit, name)
            raise UserError(f"{what}: {wrong}", next)


def not_yaml(root: Path, commit: str | None, name: str) -> None:
    """Raises UserError for a file of the pipeline that is not YAML: DVC tells it in many lines, as a lack of metrics."""
    for path in ("params.yaml", "dvc.yaml", "dvc.lock"):
        try:
            yaml_files.parse(read_file(root, commit, path) or b"")
        except yaml_files.NotYaml as error:
            what, next = told(path, commit, name)
            raise UserError(f"{what} is not YAML: {error}", next) from None


def outcomes(root: Path, commit: str | None, name: str) -> dict[str, list[Outcome]]:
    """Variant -> its per-row outcomes."""
    return {
        Path(path).stem: parse_outcomes(text(root, commit, path), *told(path, commit, name))
        for folder in (OUTCOMES, dvc_lock.REMOTE_OUTCOMES)
        for path in list_files(root, commit, folder)
        if path.endswith(".csv")
    }
