"""Which results are older than the code, params and inputs beside them: `dvc status`, without what is only missing here.

A checkout with git's content alone has no data, no models and no DVC cache. DVC calls those deleted or not in cache; what
git ignores is meant to be missing there. `dvc repro --dry --allow-missing` (DVC 3.67) does not answer this: at the first
changed stage whose input is missing it ends with an error, and code or metrics that were deleted count as unchanged.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cartlm.errors import UserError
from cartlm.pipeline import dvc_lock
from cartlm.pipeline.dvc_remote import open_repo
from cartlm.pipeline.repository import Tree, run_git
from cartlm.text import few

NEVER_RUN = "never run"
ELSEWHERE = "/dvc.yaml:"  # in the name of a stage of another pipeline file than the main graph's


@dataclass(frozen=True)
class Elsewhere:
    """A stage that a bare `dvc repro` leaves alone: its hardware or its server may not be at hand, so it never fails."""

    metrics: list[str] = field(default_factory=list)  # outputs that git has
    # the last commit to touch them; None: not run, without such outputs, or not committed yet
    commit: str | None = None
    date: str | None = None  # of that commit, YYYY-MM-DD
    at_least: bool = False  # a shallow clone ends there: measured at that commit or before
    changed: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Report:
    """What changed since each stage of every pipeline file was run."""

    stages: int  # of the main graph
    stale: dict[str, list[str]]  # stage of the main graph -> what changed since it was run
    elsewhere: dict[str, Elsewhere]
    next: str | None = None  # the command that makes the numbers of stale stages new


def find_stale(root: Path) -> Report:
    """Ask DVC about the workspace. Raises UserError where it fails."""
    # DVC names paths from where it is.
    with contextlib.chdir(root), open_repo(Path("."), "dvc status") as repo:
        listed = [stage.addressing for stage in repo.index.stages]
        paths = {str(each) for stage in repo.index.stages for each in (*stage.deps, *stage.outs)}
        status = repo.status()
    run = dvc_lock.read_stages(Tree(root))
    hidden = ignored(root, paths.union(*(stage.outs for stage in run.values())))
    remade = dvc_lock.remade_inputs(run)
    changed: dict[str, list[str]] = {}
    for name in listed:
        never = name in status and name not in run
        why = [NEVER_RUN] if never else reasons(status.get(name, []), hidden)
        # DVC compares with what is here; where that is nothing, the locks still have models made after they were read.
        known = " ".join(why)
        changed[name] = why + [each for each in remade.get(name, []) if each.partition(" (")[0] not in known]
    others = {}
    for name in [name for name in listed if ELSEWHERE in name]:
        outs = run[name].outs if name in run else ()
        others[name] = elsewhere(root, [out for out in outs if out not in hidden], changed[name])
    stale = {name: why for name, why in changed.items() if why and name not in others}
    command = "dvc repro"
    if not (root / "dvc.lock").exists() and run_git(root, "cat-file", "-e", "HEAD:dvc.lock").returncode == 0:
        command = "git checkout HEAD -- dvc.lock"
    return Report(len(listed) - len(others), stale, others, command if stale else None)


def ignored(root: Path, paths: Iterable[str]) -> set[str]:
    """Those of `paths` that git ignores: data, models, and whatever else a checkout does not bring.

    Raises UserError for a path behind a symbolic link, where git stops.
    """
    arguments = ("-c", "core.quotePath=off", "check-ignore", "--stdin")
    done = run_git(root, *arguments, stdin="\n".join(sorted(paths)))
    if done.returncode > 1 and "symbolic link" in done.stderr:
        raise UserError(done.stderr.strip(), "put a folder or a mount in the place of that link")
    return set(done.stdout.splitlines())


def reasons(entries: Sequence[Any], hidden: set[str]) -> list[str]:
    """What DVC has changed of one stage that was run, in words; without what is missing and in `hidden`."""
    found = []
    for entry in entries:
        if isinstance(entry, str):  # changed command, changed checksum, always changed
            found.append("the command" if entry == "changed command" else entry)
            continue
        for kind, paths in entry.items():
            for path, state in paths.items():
                if isinstance(state, dict):
                    place = "" if path == "params.yaml" else f"{path}: "
                    found += [f"param {place}{key}{_how(how)}" for key, how in state.items()]
                elif state == "not in cache" or (state == "deleted" and path in hidden):
                    continue
                elif kind == "changed outs" and state == "modified":
                    found.append(f"{path} (not as in dvc.lock)")
                else:
                    found.append(f"{path}{_how(state)}")
    return found


def _how(state: str) -> str:
    return "" if state == "modified" else f" ({state})"


def elsewhere(root: Path, metrics: list[str], changed: list[str]) -> Elsewhere:
    """When a stage's metrics were last committed. Nothing where they are not, or not as they are now."""
    last: list[str] = []
    if metrics and not run_git(root, "status", "--porcelain", "--", *metrics).stdout.strip():
        found = run_git(root, "log", "-1", "--date=short", "--format=%H %h %ad", "--", *metrics)
        last = found.stdout.split()
    if not last:
        return Elsewhere(metrics, changed=changed)
    boundary = run_git(root, "rev-parse", "--git-path", "shallow").stdout.strip()
    cut = (root / boundary).read_text("utf-8").split() if (root / boundary).exists() else []
    return Elsewhere(metrics, last[1], last[2], last[0] in cut, changed)


def format_report(found: Report) -> str:
    """The report for people: stages with the same reasons on one line."""
    lines = [headline(found) + (", for what changed since the run:" if found.stale else "")]
    lines += [f"  {', '.join(names)}: {why}" for why, names in stale_by_reason(found).items()]
    lines += [f"  next: {found.next}"] if found.stale else []
    if others := format_elsewhere(found):
        lines += ["", "Other pipeline files, which only their own commands run:"]
        lines += [f"  {line}" for line in others]
    return "\n".join(lines)


def headline(found: Report) -> str:
    if not found.stale:
        return f"No stage of dvc.yaml is stale (of {found.stages})."
    n = len(found.stale)
    return f"{n} of {found.stages} stages of dvc.yaml {'is' if n == 1 else 'are'} stale"


def stale_by_reason(found: Report) -> dict[str, list[str]]:
    """Stages of the main graph by what changed since they were run."""
    return _by_text({name: few(why, 8) for name, why in found.stale.items()})


def _by_text(texts: Mapping[str, str]) -> dict[str, list[str]]:
    """Names that share a text, together."""
    found: dict[str, list[str]] = {}
    for name, text in texts.items():
        found.setdefault(text, []).append(name)
    return found


def format_elsewhere(found: Report) -> list[str]:
    """A sentence on the stages of other pipeline files; none on one without metrics of which nothing changed."""
    texts = {}
    for name, each in found.elsewhere.items():
        since = f"; changed since: {few(each.changed, 4)}" if each.changed else "; nothing changed since"
        if each.changed == [NEVER_RUN]:
            texts[name] = "not measured yet"
        elif each.commit:
            before = " or before (a shallow clone: git fetch --unshallow)" if each.at_least else ""
            texts[name] = f"measured at commit {each.commit} ({each.date}){before}{since}"
        elif each.metrics:
            texts[name] = f"measured here, not committed{since}"
        elif each.changed:
            texts[name] = f"run before{since}"
    return [f"{', '.join(names)}: {text}" for text, names in _by_text(texts).items()]
