"""A study's git worktree: the code of a commit, the preset's params, numbers of its own, DVC's cache of the checkout.

Paths in OWN are the study's; everything else that git tracks is set to the commit at every start.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from shlex import quote
from typing import Any

from cartlm.errors import UserError
from cartlm.files import sha256, write_text
from cartlm.pipeline.dvc_lock import LOCKS
from cartlm.pipeline.repository import run_git
from cartlm.pipeline.study_results import RECORD, RESULTS

WORKTREES = Path("runs/studies")
STATE = Path("runs/study.json")
PARAMS = "params.yaml"
OWN = (
    "metrics",
    "docs/data.md",
    "docs/results.md",
    *(lock for lock in LOCKS if not lock.startswith("base/")),
)
"""What a study writes besides what git ignores."""
OTHERS = tuple(f":(exclude){path}" for path in (PARAMS, *OWN))


@dataclass
class State:
    """What was done in a worktree, in its runs/study.json."""

    seeded: bool = False  # it has no numbers of the main graph any more
    commit: str = ""  # of its code and params; empty while they are being changed
    params: str = ""  # SHA-256 of params.yaml with the preset
    # SHA-256 of the section base, to whose licence and download somebody agreed
    agreed: str = ""
    seconds: dict[str, float] = field(default_factory=dict)  # stage -> time of its last whole run
    # of runs that did not end; they count once the stage does
    cut: dict[str, float] = field(default_factory=dict)

    def write(self, folder: Path) -> None:
        write_text(folder / STATE, json.dumps(asdict(self), indent=2) + "\n")


def read_state(folder: Path) -> State:
    """The state of a worktree; a new one where there is none that can be read."""
    try:
        return State(**json.loads((folder / STATE).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return State()


def prepare(
    root: Path, name: str, commit: str, lay_preset: Callable[[Path, State], object]
) -> tuple[Path, State]:
    """The worktree of a study at a commit, with the preset's params; made where it is missing.

    `lay_preset(folder, state)` lays the preset over the commit's params.yaml there. A run killed in here is made good
    by the next. Raises UserError where git or the disk refuses.
    """
    folder = (root / WORKTREES / name).resolve()
    if not is_worktree(root, folder):
        attach(root, folder, commit)
    # Nobody else runs git here: a lock was left by a killed run.
    lock = folder / git(folder, "rev-parse", "--git-path", "index.lock").strip()
    lock.unlink(missing_ok=True)
    state = read_state(folder)
    ready = state.commit == commit and state.params == digest(folder / PARAMS)
    if not ready:
        state.commit = ""
        state.write(folder)
    git(folder, "reset", "-q", "--mixed", commit)
    git(folder, "restore", "-q", "--worktree", "--", ".", *OTHERS)
    git(folder, "clean", "-fdq", "--", ".", *OTHERS)
    if not state.seeded:
        seed(folder, root / RESULTS / name)
        state.seeded = True
    share_cache(root, folder)
    if not ready:
        git(folder, "restore", "-q", "--worktree", "--", PARAMS)
        lay_preset(folder, state)
        state.commit, state.params = commit, digest(folder / PARAMS)
    state.write(folder)
    return folder, state


def is_worktree(root: Path, folder: Path) -> bool:
    """Whether a folder is a worktree of the repository, and git can work in it."""
    if not (folder / ".git").is_file():
        return False
    top, common = (
        run_git(folder, "rev-parse", f"--{what}").stdout.strip()
        for what in ("show-toplevel", "git-common-dir")
    )
    ours = run_git(root, "rev-parse", "--git-common-dir").stdout.strip()
    return (
        bool(top) and Path(top).resolve() == folder and (folder / common).resolve() == (root / ours).resolve()
    )


def attach(root: Path, folder: Path, commit: str) -> None:
    """Make the worktree, or connect one again after the checkout was moved. Raises UserError for any other folder."""
    if (folder / ".git").is_file():
        run_git(root, "worktree", "repair", str(folder))
        if is_worktree(root, folder):
            return
    if folder.exists() and any(folder.iterdir()):
        raise UserError(
            f"{folder} is there and no worktree of this repository", f"mv {quote(str(folder))} elsewhere"
        )
    git(root, "worktree", "prune")  # one that was deleted by hand is still listed
    git(root, "worktree", "add", "-q", "--detach", "--force", str(folder), commit)


def seed(folder: Path, results: Path) -> None:
    """Put a study's own numbers, if git has some, in the place of the main graph's."""
    for path in git(folder, "ls-files", "-z", "--", *OWN).split("\0"):
        if path and not path.endswith(".gitkeep"):
            (folder / path).unlink(missing_ok=True)
    if results.is_dir():
        shutil.copytree(results, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns(RECORD, PARAMS))


def share_cache(root: Path, folder: Path) -> None:
    """Let DVC in the worktree use the checkout's cache and remotes, those of its config.local among them."""
    from dvc.config import Config

    ours = Config(str(root.resolve() / ".dvc"), validate=False)
    own = ours.load_one("local")
    with Config(str(folder / ".dvc"), validate=False).edit("local") as config:
        config.update(own)
        # What these two start in the background would go on holding the lock of `make study`.
        chosen = {key: each for key, each in ours["core"].items() if key == "remote"}
        config["core"] = {**own["core"], **chosen, "check_update": False, "analytics": False}
        config["cache"] = {
            **own["cache"],
            "dir": str(ours["cache"].get("dir") or root.resolve() / ".dvc/cache"),
        }
        # A relative URL is relative to the folder of its file.
        remotes: dict[str, Any] = ours["remote"]
        config["remote"] = {
            each: {**own["remote"].get(each, {}), "url": str(remotes[each]["url"])} for each in remotes
        }


def is_dirty(folder: Path) -> bool:
    """Whether code in a worktree is not that of its commit."""
    return bool(git(folder, "status", "--porcelain", "--", ".", *OTHERS).strip())


def digest(path: Path) -> str:
    return sha256(path) if path.is_file() else ""


def git(folder: Path, *arguments: str) -> str:
    """The output of git. Raises UserError with its last line where it fails."""
    done = run_git(folder, *arguments)
    if done.returncode != 0:
        said = (done.stderr.strip() or "it failed").splitlines()[-1]
        raise UserError(f"git {arguments[0]} in {folder}: {said}", f"git -C {quote(str(folder))} status")
    return done.stdout
