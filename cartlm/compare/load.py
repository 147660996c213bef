"""Two commits, or a commit and the workspace, as `cartlm compare` needs them: read from git, without data or models."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any

from pydantic import TypeAdapter, ValidationError

from cartlm.bench.rounds import Rounds, parse_rounds
from cartlm.compare.rules import invalid_metric, target_and_variant
from cartlm.config import Share
from cartlm.errors import UserError
from cartlm.metrics import Outcome, parse_metrics, parse_outcomes
from cartlm.pipeline import dvc_lock, study_results
from cartlm.pipeline.repository import WORKSPACE, Tree, resolve_commit
from cartlm.text import few

PARAMS = "params.yaml"
PARAMS_FILES = (PARAMS, "base/params.yaml")
STANDARD: Mapping[str, float] = {
    "accuracy": 0.005, "speed": 0.15, "latency": 0.3, "load": 0.5, "memory": 0.05, "energy": 0.15, "size": 0.01,
    "ratio": 0.15, "loss": 0.1,
}  # fmt: skip
"""Tolerances that an older side without its own is judged by: those of params.yaml."""


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
    params: dict[str, dict[str, Any]] = field(default_factory=dict)  # file -> its values
    studies: dict[str, Side] = field(default_factory=dict)  # what results/ has
    presets: tuple[str, ...] = ()

    def section(self, name: str) -> dict[str, Any]:
        """A section of params.yaml as it is, valid or not; empty where there is none."""
        values = self.params.get(PARAMS, {}).get(name)
        return values if isinstance(values, dict) else {}


@dataclass(frozen=True)
class ParamChange:
    """A changed value of params.yaml; None is a key that one side lacks."""

    file: str
    key: str
    old: Any
    new: Any


def load_side(root: Path, revision: str | None) -> Side:
    """A commit of the repository `root`, or its workspace if `revision` is None.

    Raises UserError for a revision that does not exist, without metrics, and for files that no stage writes.
    """
    tree = Tree(root, resolve_commit(root, revision) if revision is not None else None)
    side = read_side(tree)
    if not side.metrics:
        asked = f"{revision} ({tree.name})" if tree.commit else f"the {WORKSPACE}"
        next = "git log --oneline -- metrics" if tree.commit else "make repro"
        raise UserError(f"{asked} has no metrics", next)
    below = {name: f"{study_results.RESULTS}/{name}" for name in study_results.names(tree)}
    return replace(
        side,
        outdated=dvc_lock.outdated_stages(side.stages, tree),
        studies={name: read_side(replace(tree, below=path)) for name, path in below.items()},
        presets=tuple(PurePosixPath(path).stem for path in tree.find("presets") if path.endswith(".yaml")),
    )


def read_side(tree: Tree) -> Side:
    """The numbers of the main graph, or of a study, and the params and locks beside them."""
    stages = dvc_lock.read_stages(tree)
    outcomes = {
        Path(path).stem: parse_outcomes(text, *tree.place(path))
        for folder in (dvc_lock.OUTCOMES, dvc_lock.REMOTE_OUTCOMES)
        for path, text in find_texts(tree, folder, "*.csv").items()
    }
    rounds = {
        Path(path).parent.name: parse_rounds(text, *tree.place(path))
        for path, text in find_texts(tree, "metrics/bench", "rounds.csv").items()
    }
    params = {path: tree.yaml(path) for path in PARAMS_FILES}
    rows = dvc_lock.row_hashes(stages)
    return Side(tree.name, load_metrics(tree), outcomes, rows, stages, rounds=rounds, params=params)


def param_changes(old: Side, new: Side) -> list[ParamChange]:
    """What differs in the sides' params files."""
    changes = []
    for file in PARAMS_FILES:
        before, after = (flatten(side.params.get(file, {})) for side in (old, new))
        for key in sorted(before.keys() | after.keys()):
            if before.get(key) != after.get(key):
                changes.append(ParamChange(file, key, before.get(key), after.get(key)))
    return changes


def tolerances_of(side: Side) -> tuple[dict[str, float], list[str]]:
    """The tolerances in a side's params.yaml by kind, and a note on the kinds for which the standard is used instead."""
    given = side.section("compare")
    tolerances, missing = dict(STANDARD), []
    for kind, standard in STANDARD.items():
        try:
            tolerances[kind] = TypeAdapter(Share).validate_python(given.get(kind), strict=True)
        except ValidationError:
            missing.append(f"{kind} {standard:g}" + (f" (not {given[kind]!r:.20})" if kind in given else ""))
    note = f"in {side.name}, params.yaml has no such tolerance, so the standard is used: {few(missing, 8)}."
    return tolerances, [note] if missing else []


def flatten(values: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """Nested sections as dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        name = f"{above}{key}"
        flat |= flatten(value, f"{name}.") if isinstance(value, Mapping) else {name: value}
    return flat


def find_texts(tree: Tree, folder: str, name: str) -> dict[str, str]:
    """Path -> text of the files below a folder with such a name."""
    paths = [path for path in tree.find(folder) if PurePosixPath(path).match(name)]
    return {path: (tree.read(path) or b"").decode("utf-8", errors="replace") for path in paths}


def load_metrics(tree: Tree) -> dict[str, dict[str, Any]]:
    """File -> dotted key -> value. Raises UserError for what no stage writes."""
    files = {}
    for path, text in find_texts(tree, "metrics", "*.json").items():
        where, next = tree.place(path)
        files[path] = flatten(parse_metrics(text, where, next))
        if target_and_variant(path)[0] and (invalid := invalid_metric(files[path])):
            raise UserError(f"{where}: {invalid}", next)
    return files
