"""Studies: a preset run in a git worktree of its own, while params.yaml and metrics/ stay those of the default model.

`make study NAME=smollm2` checks out a commit under runs/studies/smollm2, lays the preset over its params.yaml, runs what
`make repro` runs, and copies the numbers to results/smollm2. Models, data and progress stay in the
worktree; DVC's cache and the virtual environment are the checkout's. A second call goes on where the first one ended.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any

from cartlm import yaml_files
from cartlm.errors import UserError
from cartlm.files import replacing
from cartlm.pipeline import dvc_lock, presets, stale, worktree
from cartlm.pipeline.repository import Tree, resolve_commit
from cartlm.pipeline.study_results import INPUTS, LEFT_OUT, RECORD, RESULTS
from cartlm.system import machine
from cartlm.text import few

NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,99}")
BEFORE = (("params", "check"), ("prune",), ("fetch-paid",), ("refresh-data",))
"""Commands of cartlm that `make repro` runs before DVC."""
RUNNING = re.compile(r"Running stage '(.+)':")


@dataclass(frozen=True)
class Order:
    """What to run."""

    name: str
    commit: str | None = None  # None: HEAD, which must have every change of the workspace
    stages: Sequence[str] = ()  # of dvc.yaml; none: all
    yes: bool = False  # to licence and download


def check(root: Path, order: Order) -> str:
    """The full hash of the commit to run. Raises UserError for a wrong name or commit, and for uncommitted code."""
    if not NAME.fullmatch(order.name):
        what = f"{order.name!r} cannot be the name of a study: small letters, digits, dots and dashes"
        raise UserError(what, "rename the preset")
    if order.commit is None:
        refuse_changes(root, order.name)
    commit = resolve_commit(root, order.commit or "HEAD")
    listed = worktree.git(root, "ls-tree", "--name-only", commit, "--", "presets/").splitlines()
    known = [Path(path).stem for path in listed if path.endswith(".yaml") and NAME.fullmatch(Path(path).stem)]
    if order.name not in known:
        where = f"in {commit[:8]}" if order.commit else "here"
        what = f"there is no preset {order.name} {where}; there are: {', '.join(known) or 'none'}"
        raise UserError(
            what, f"make study NAME={known[0]}" if known else "write presets/NAME.yaml and commit it"
        )
    return commit


def refuse_changes(root: Path, name: str) -> None:
    """Raises UserError where code, params or presets are not committed: a study measures a commit."""
    status = worktree.git(root, "status", "--porcelain", "-z", "--untracked-files=all", "--", *INPUTS)
    changed = [entry[3:] for entry in status.split("\0") if len(entry) > 3 and entry[2] == " "]
    if changed:
        what = f"a study measures a commit, and not committed is: {few(changed, 3)}"
        instead = f"make study NAME={name} ARGS='--commit HEAD' leaves it out"
        raise UserError(
            what, f"git commit, git stash or, for params.yaml, git checkout params.yaml; {instead}"
        )


def run(root: Path, order: Order, lock: IO[str], say: Callable[[str], object]) -> None:
    """Run a study, or what is left of it, and publish under results/ what is measured of it.

    `lock` is an open file that stays locked as long as DVC runs; it gets DVC's process number. `say` prints a line.
    Raises UserError where a command failed, which has said why.
    """
    commit = check(root, order)
    folder, state = worktree.prepare(root, order.name, commit, partial(lay_preset, order))
    say(f"study {order.name}: commit {commit[:8]} in {worktree.WORKTREES / order.name}")
    for words in BEFORE:
        cartlm(folder, *words, name=order.name)
    repro(folder, state, order, lock, say)
    if not order.stages:
        cartlm(folder, "check-models", name=order.name)
    for line in publish(root, folder, order.name, state):
        say(line)


def lay_preset(order: Order, folder: Path, state: worktree.State) -> None:
    """Overlay params.yaml in a worktree, by that commit's own code; licence and download are asked for there, once."""
    text, _ = presets.lay_over(folder / worktree.PARAMS, folder / f"presets/{order.name}.yaml")
    base = yaml_files.parse(text).get("base")
    wanted = hashlib.sha256(json.dumps(base, default=str).encode()).hexdigest()
    yes = order.yes or state.agreed == wanted
    cartlm(folder, "preset", order.name, *(["--yes"] if yes else []), name=order.name)
    state.agreed = wanted


def cartlm(folder: Path, *words: str, name: str) -> None:
    """Run a command of the worktree's own cartlm. Raises UserError where it fails: its own line stands above."""
    done = subprocess.run([sys.executable, "-m", "cartlm.cli", *words], cwd=folder, env=environment())
    if done.returncode != 0:
        stopped(name, f"cartlm {' '.join(words)}")


def stopped(name: str, where: str) -> None:
    again = f"fix what the lines above name, then make study NAME={name}: it resumes"
    raise UserError(f"study {name} stopped in {where}", again)


def environment() -> dict[str, str]:
    """This interpreter first on PATH, as the Makefile has it; lines of DVC come as they are printed."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    return {**os.environ, "PATH": path, "PYTHONUNBUFFERED": "1"}


def repro(
    folder: Path, state: worktree.State, order: Order, lock: IO[str], say: Callable[[str], object]
) -> None:
    """`dvc repro` in the worktree, with the time of each stage that runs written to its state."""
    command = [sys.executable, "-m", "dvc"]
    remotes = subprocess.run(
        [*command, "remote", "list"], cwd=folder, env=environment(), capture_output=True, text=True
    )
    pull = ["--pull"] if remotes.stdout.strip() else []
    with subprocess.Popen(
        [*command, "repro", *pull, *order.stages], cwd=folder, env=environment(), stdout=subprocess.PIPE,
        encoding="utf-8", errors="replace", pass_fds=(lock.fileno(),),
    ) as process:  # fmt: skip
        lock.seek(0)
        lock.truncate()
        lock.write(str(process.pid))
        lock.flush()
        watch = Stopwatch(folder, state)
        try:
            for line in process.stdout or ():
                say(line.rstrip("\n"))
                if started := RUNNING.match(line):
                    watch.start(started[1])
            process.wait()
        finally:
            watch.stop(ended=process.poll() == 0)
    if process.returncode != 0:
        stopped(order.name, "dvc repro")


class Stopwatch:
    """How long each stage takes, in the worktree's state: of a stage that ended, with its interrupted runs."""

    def __init__(self, folder: Path, state: worktree.State) -> None:
        self.folder, self.state = folder, state
        self.running: tuple[str, float] | None = None

    def start(self, stage: str) -> None:
        self.stop(ended=True)
        self.running = stage, time.monotonic()

    def stop(self, ended: bool) -> None:
        if self.running:
            stage, since = self.running
            took = round(self.state.cut.pop(stage, 0.0) + time.monotonic() - since, 1)
            (self.state.seconds if ended else self.state.cut)[stage] = took
            self.state.write(self.folder)
            self.running = None


def publish(root: Path, folder: Path, name: str, state: worktree.State) -> list[str]:
    """Copy a study to results/NAME, at once or not at all; lines on what was done.

    Stages of LEFT_OUT may be stale, and are left out with their files: a study may lack variants and speeds, but has none
    of other models.
    """
    report = stale.find_stale(folder)
    if {stage.partition("@")[0] for stage in report.stale} - {*LEFT_OUT}:
        return [
            f"left to run: {few([*report.stale], 6)}; results/{name} waits for them: make study NAME={name}"
        ]
    stages = dvc_lock.read_stages(Tree(folder))
    ready = {each: stage for each, stage in stages.items() if is_ready(each, report)}
    files = contents(folder, ready, {*stages} - {*ready})
    target = root / RESULTS / name
    if files == read_files(target, {RECORD}):
        return [f"results/{name} has these numbers already"]
    record = describe(folder, name, state, ready, [*report.stale], read_seconds(target))
    files[RECORD] = (json.dumps(record, indent=2, ensure_ascii=False) + "\n").encode()
    with replacing(target, folder=True) as new:
        for path, data in files.items():
            (new / path).parent.mkdir(parents=True, exist_ok=True)
            (new / path).write_bytes(data)
    left = [f"left to run: {few([*report.stale], 6)}: make study NAME={name}"] if report.stale else []
    return [*left, f"results/{name} is new: cartlm readme-table puts it into the tables; commit both"]


def is_ready(stage: str, report: stale.Report) -> bool:
    """Whether a stage's numbers are those of the present code, params and inputs."""
    other = report.elsewhere.get(stage)
    return stage not in report.stale and (other is None or not other.changed)


def contents(folder: Path, stages: Mapping[str, dvc_lock.Stage], without: set[str]) -> dict[str, bytes]:
    """Path -> bytes of what git keeps of a study: params, locks without some stages, and the other stages' outputs."""
    files = {worktree.PARAMS: (folder / worktree.PARAMS).read_bytes(), **lock_files(folder, without)}
    outs = [out for stage in stages.values() for out in stage.outs]
    hidden = stale.ignored(folder, outs)
    for out in [each for each in outs if each not in hidden]:
        found = (
            {out: (folder / out).read_bytes()}
            if (folder / out).is_file()
            else read_files(folder / out, set(), f"{out}/")
        )
        files |= found
    return files


def read_files(folder: Path, without: set[str], prefix: str = "") -> dict[str, bytes]:
    """Path -> bytes of all files below a folder; hidden files are git's own."""
    paths = [path for path in folder.rglob("*") if path.is_file() and not path.name.startswith(".")]
    named = {path.relative_to(folder).as_posix(): path for path in sorted(paths)}
    return {f"{prefix}{name}": path.read_bytes() for name, path in named.items() if name not in without}


def lock_files(folder: Path, without: set[str]) -> dict[str, bytes]:
    """Path -> the dvc.lock files as DVC writes them, without some stages; none for a file without a stage."""
    from dvc.utils.serialize import dumps_yaml, parse_yaml_for_update

    files = {}
    for path in [each for each in worktree.OWN if each in dvc_lock.LOCKS and (folder / each).is_file()]:
        document = parse_yaml_for_update((folder / path).read_text(encoding="utf-8"), path)
        prefix = "" if path == dvc_lock.LOCKS[0] else path.replace(".lock", ".yaml:")
        for stage in [each for each in document["stages"] if f"{prefix}{each}" in without]:
            del document["stages"][stage]
        if document["stages"]:
            files[path] = str(dumps_yaml(document)).encode()
    return files


def read_seconds(target: Path) -> dict[str, float]:
    """The times of stages that results/ has: those of another machine, or of an earlier worktree."""
    try:
        seconds = json.loads((target / RECORD).read_text(encoding="utf-8")).get("seconds", {})
    except (OSError, ValueError, AttributeError):
        return {}
    return seconds if isinstance(seconds, dict) else {}


def describe(
    folder: Path, name: str, state: worktree.State, stages: Mapping[str, dvc_lock.Stage], left_out: Sequence[str],
    seconds: Mapping[str, float],
) -> dict[str, Any]:  # fmt: skip
    """study.json: of which commit, when, where, and how long each stage took (s)."""
    code = sorted({(path, md5) for stage in stages.values() for path, md5 in stage.code.items()})
    times = {**seconds, **state.seconds}
    return {
        "preset": f"presets/{name}.yaml",
        "commit": state.commit,
        "dirty": worktree.is_dirty(folder),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "code": hashlib.sha256(json.dumps(code).encode()).hexdigest()[:12],
        "left_out": " ".join(left_out),
        "machine": machine.fingerprint(),
        "seconds": {each: times[each] for each in stages if each in times},
    }
