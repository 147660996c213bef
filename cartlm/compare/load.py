"""Two commits, or a commit and the workspace, as `cartlm compare` needs them: read from git, without data or models."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from cartlm import yaml_files
from cartlm.compare.rules import invalid_metric, target_and_variant
from cartlm.compare.timings import Rounds, parse_rounds
from cartlm.errors import UserError
from cartlm.metrics import Outcome, parse_outcomes
from cartlm.pipeline import dvc_lock
from cartlm.pipeline.repository import check_repository, dvc_md5, list_files, read_file, resolve_commit

WORKSPACE = "workspace"
PARAMS = ("params.yaml", "base/params.yaml")


@dataclass(frozen=True)
class Side:
    """One of the two compared states."""

    name: str  # the first digits of the commit, or `workspace`
    metrics: dict[str, dict[str, Any]]  # metrics file -> dotted key -> value
    outcomes: dict[str, list[Outcome]] = field(default_factory=dict)  # variant -> its rows
    rows: dict[str, str] = field(default_factory=dict)  # variant -> hash of its test rows in dvc.lock
    stages: dict[str, dvc_lock.Stage] = field(default_factory=dict)
    outdated: dict[str, list[str]] = field(default_factory=dict)  # stage -> what changed since it was run
    rounds: dict[str, Rounds] = field(default_factory=dict)  # hardware target -> its rounds.csv
    params: dict[str, Any] = field(default_factory=dict)  # file -> its values


@dataclass(frozen=True)
class ParamChange:
    """A changed value of params.yaml; None is a key that one side lacks."""

    file: str
    key: str
    old: Any
    new: Any


def load_side(root: Path, revision: str | None) -> Side:
    """A commit, or the workspace if `revision` is None.

    Raises UserError outside of a git and DVC repository, for a revision that does not exist, without metrics, and for
    files that no stage writes.
    """
    check_repository(root)
    files = _Files(root, resolve_commit(root, revision) if revision is not None else None)
    params = {path: files.yaml(path) for path in PARAMS}
    files.yaml("dvc.lock")
    metrics = files.metrics()
    if not metrics:
        asked = f"{revision} ({files.name})" if files.commit else f"the {WORKSPACE}"
        next = "git log --oneline -- metrics" if files.commit else "make repro"
        raise UserError(f"{asked} has no metrics", next)
    stages = dvc_lock.read_stages(files.read, files.name)
    outdated = dvc_lock.outdated_stages(stages, files.read, lambda path: dvc_md5(root, files.commit, path))
    return Side(
        files.name,
        metrics,
        files.outcomes(),
        dvc_lock.row_hashes(stages),
        stages,
        outdated,
        files.rounds(),
        params,
    )


def param_changes(old: Side, new: Side) -> list[ParamChange]:
    """What differs in the sides' params files."""
    changes = []
    for file in PARAMS:
        before, after = flatten(old.params.get(file)), flatten(new.params.get(file))
        changes += [
            ParamChange(file, key, before.get(key), after.get(key))
            for key in sorted(before.keys() | after.keys())
            if before.get(key) != after.get(key)
        ]
    return changes


def flatten(values: Any, above: str = "") -> dict[str, Any]:
    """Nested sections as dotted keys."""
    if not isinstance(values, Mapping):
        return {above: values} if above else {}
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= flatten(value, f"{above}.{key}" if above else str(key))
    return flat


@dataclass(frozen=True)
class _Files:
    """The files of a commit, or of the workspace if it is None."""

    root: Path
    commit: str | None

    @property
    def name(self) -> str:
        return self.commit[:8] if self.commit else WORKSPACE

    def read(self, path: str) -> bytes | None:
        return read_file(self.root, self.commit, path)

    def text(self, path: str) -> str:
        return (self.read(path) or b"").decode("utf-8", errors="replace")

    def list_matching(self, folder: str, name: str) -> list[str]:
        return [
            path for path in list_files(self.root, self.commit, folder) if PurePosixPath(path).match(name)
        ]

    def place(self, path: str) -> tuple[str, str]:
        """A broken file as an error names it, and the command that shows or restores it."""
        if self.commit:
            return f"{path} of {self.name}", f"git show {self.name}:{path}"
        return path, f"git checkout {path}"

    def yaml(self, path: str) -> Any:
        where, next = self.place(path)
        try:
            return yaml_files.parse(self.read(path) or b"")
        except yaml_files.NotYaml as error:
            raise UserError(f"{where} is not YAML: {error}", next) from None

    def metrics(self) -> dict[str, dict[str, Any]]:
        files = {}
        for path in self.list_matching("metrics", "*.json"):
            where, next = self.place(path)
            try:
                values = json.loads(self.text(path))
            except ValueError as error:
                raise UserError(f"{where} is not JSON: {error}", next) from None
            if not isinstance(values, dict):
                raise UserError(f"{where} is not a JSON object", next)
            files[path] = flatten(values)
            if target_and_variant(path)[0] and (invalid := invalid_metric(files[path])):
                raise UserError(f"{where}: {invalid}", next)
        return files

    def outcomes(self) -> dict[str, list[Outcome]]:
        paths = [
            *self.list_matching(dvc_lock.OUTCOMES, "*.csv"),
            *self.list_matching(dvc_lock.REMOTE_OUTCOMES, "*.csv"),
        ]
        return {Path(path).stem: parse_outcomes(self.text(path), *self.place(path)) for path in paths}

    def rounds(self) -> dict[str, Rounds]:
        paths = self.list_matching("metrics/bench", "rounds.csv")
        return {Path(path).parent.name: parse_rounds(self.text(path), *self.place(path)) for path in paths}
