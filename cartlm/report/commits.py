"""Two commits, or a commit and the workspace, as `cartlm compare` needs them.

Metrics and params come from `dvc metrics diff` and `dvc params diff`; outcomes, and the hash of the test rows
they rest on, from git alone: no models, no data and no DVC cache are needed.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cartlm import process, yaml_files
from cartlm.errors import UserError
from cartlm.report import locks, rules
from cartlm.results import Outcome, parse_outcomes

WORKSPACE = "workspace"
OUTCOMES = locks.OUTCOMES
Files = dict[str, dict[str, Any]]
"""Metrics file -> dotted key -> value."""


@dataclass(frozen=True)
class Side:
    """What one of the two compared states says."""

    name: str  # the first digits of the commit, or `workspace`
    metrics: Files
    outcomes: dict[str, list[Outcome]] = field(default_factory=dict)  # variant -> its rows
    rows: dict[str, str] = field(default_factory=dict)  # variant -> hash of its test rows, as dvc.lock tells
    stages: dict[str, locks.Stage] = field(default_factory=dict)
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
    repository(root)
    olds, news = resolve(root, old), resolve(root, new) if new is not None else None
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
            if any(path.endswith(".json") for path in listed(root, commit, "metrics")):
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


def repository(root: Path) -> None:
    """Raises UserError unless `root` is the top of a git repository with a DVC pipeline."""
    done = git(root, "rev-parse", "--show-toplevel")
    if done.returncode != 0:
        said = done.stderr.strip().splitlines()
        raise UserError(
            f"{root.resolve()} is no git repository: {said[0] if said else 'git failed'}", "cd into one"
        )
    top = Path(done.stdout.strip())
    if top.resolve() != root.resolve() or not ((root / ".dvc").is_dir() and (root / "dvc.yaml").is_file()):
        raise UserError(f"{root.resolve()} is not the top of a repository with a dvc.yaml", f"cd {top}")


def checked_out(root: Path, revision: str | None) -> bool:
    """Whether a side of the comparison is what lies in the workspace: the workspace itself, or HEAD without a change.

    New files that git does not track are none: a workflow writes its report to one.
    """
    if revision is None:
        return True
    head = git(root, "rev-parse", "HEAD").stdout.strip() == resolve(root, revision)
    return head and not git(root, "status", "--porcelain", "--untracked-files=no").stdout.strip()


def resolve(root: Path, revision: str) -> str:
    """The full hash of a commit. Raises UserError for one that is not there."""
    done = git(root, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{revision}^{{commit}}")
    if done.returncode == 0 and revision:
        return done.stdout.split()[-1]
    if git(root, "rev-parse", "--is-shallow-repository").stdout.strip() == "true":
        raise UserError(f"{revision!r} is not in this shallow clone", "git fetch --unshallow")
    raise UserError(f"there is no commit {revision!r}", "git log --oneline")


def git(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run git in `root`. Raises UserError where it is not installed."""
    try:
        return subprocess.run(
            ["git", *arguments], cwd=root, capture_output=True, text=True, encoding="utf-8", errors="replace"
        )
    except FileNotFoundError:
        raise UserError("git is not installed", "install it, then run this again") from None


def dvc(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run DVC in `root`."""
    return subprocess.run(
        [sys.executable, "-m", "dvc", *arguments],
        cwd=root,
        capture_output=True,
        text=True,
        env={**os.environ, "DVC_NO_ANALYTICS": "1"},
    )


def dvc_diff(root: Path, what: str, old: str, new: str | None, *options: str) -> tuple[Files, str]:
    """What `dvc metrics diff --json` or `dvc params diff --json` says: file -> key -> old and new, and its warnings.

    It warns, and ends with 0, where it can read nothing.
    """
    done = dvc(root, what, "diff", "--json", *options, old, *([new] if new else []))
    try:
        if done.returncode != 0:
            raise ValueError
        return json.loads(done.stdout), " ".join(done.stderr.split())
    except ValueError:
        said = (done.stderr or done.stdout).strip().splitlines()
        raise UserError(
            f"dvc {what} diff failed: {said[0] if said else process.ended(done.returncode)}",
            f"dvc {what} diff {old[:8]}",
        ) from None


def one_side(diff: Files, which: str) -> Files:
    """The files and values of the `old` or `new` side of a `dvc metrics diff`; null is a key that it lacks."""
    files = {
        file: {key: both[which] for key, both in keys.items() if both.get(which) is not None}
        for file, keys in diff.items()
    }
    return {file: keys for file, keys in sorted(files.items()) if keys}


def listed(root: Path, commit: str | None, folder: str) -> list[str]:
    """Files below `folder` in a commit or, where it is None, in the workspace."""
    if commit is None:
        paths = (root / folder).rglob("*")
        return sorted(path.relative_to(root).as_posix() for path in paths if path.is_file())
    return git(
        root, "-c", "core.quotePath=off", "ls-tree", "-r", "--name-only", commit, folder
    ).stdout.splitlines()


def content(root: Path, commit: str | None, path: str) -> bytes | None:
    """A file of a commit or of the workspace; None where it is not there."""
    if commit is None:
        return (root / path).read_bytes() if (root / path).is_file() else None
    done = subprocess.run(["git", "show", f"{commit}:{path}"], cwd=root, capture_output=True)
    return done.stdout if done.returncode == 0 else None


def text(root: Path, commit: str | None, path: str) -> str:
    """The same as text; empty where it is not there."""
    return (content(root, commit, path) or b"").decode("utf-8", errors="replace")


def locked(
    root: Path, commit: str | None, name: str
) -> tuple[dict[str, str], dict[str, locks.Stage], dict[str, list[str]]]:
    """The hashes of the test rows, the stages as they were run, and those that are outdated."""

    def read(path: str) -> bytes | None:
        return content(root, commit, path)

    stages = locks.stages(read, name)
    return locks.row_hashes(stages), stages, locks.changed_since(stages, read)


def told(path: str, commit: str | None, name: str) -> tuple[str, str]:
    """A broken file in the words of a message, and the command that helps: a commit's is not mended by a checkout."""
    return (f"{path} of {name}", f"git show {name}:{path}") if commit else (path, f"git checkout {path}")


def unreadable(root: Path, commit: str | None, name: str, known: set[str]) -> None:
    """Raises UserError for a metrics file that DVC left out as it is no JSON object: it does so in silence."""
    for path in listed(root, commit, "metrics"):
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
            yaml_files.parse(content(root, commit, path) or b"")
        except yaml_files.NotYaml as error:
            what, next = told(path, commit, name)
            raise UserError(f"{what} is not YAML: {error}", next) from None


def outcomes(root: Path, commit: str | None, name: str) -> dict[str, list[Outcome]]:
    """Variant -> its per-row outcomes."""
    return {
        Path(path).stem: parse_outcomes(text(root, commit, path), *told(path, commit, name))
        for path in listed(root, commit, OUTCOMES)
        if path.endswith(".csv")
    }
