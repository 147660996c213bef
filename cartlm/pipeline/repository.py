"""Commits and the workspace of a repository, through git."""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
import tarfile
from pathlib import Path

from cartlm.errors import UserError


def check_repository(root: Path) -> None:
    """Raises UserError unless `root` is the top of a git repository with a DVC pipeline."""
    done = run_git(root, "rev-parse", "--show-toplevel")
    if done.returncode != 0:
        raise UserError(
            f"{root.resolve()} is no git repository: {(done.stderr.strip() or 'git failed').splitlines()[0]}",
            "cd into one",
        )
    top = Path(done.stdout.strip())
    if top.resolve() != root.resolve() or not ((root / ".dvc").is_dir() and (root / "dvc.yaml").is_file()):
        raise UserError(f"{root.resolve()} is not the top of a repository with a dvc.yaml", f"cd {top}")


def is_checked_out(root: Path, revision: str | None) -> bool:
    """Whether a revision is what the workspace has: None for the workspace itself, or HEAD without a change.

    New files that git does not track are none: a workflow writes its report to one.
    """
    if revision is None:
        return True
    head = run_git(root, "rev-parse", "HEAD").stdout.strip() == resolve_commit(root, revision)
    return head and not run_git(root, "status", "--porcelain", "--untracked-files=no").stdout.strip()


def resolve_commit(root: Path, revision: str) -> str:
    """The full hash of a commit. Raises UserError for one that is not there."""
    done = run_git(root, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{revision}^{{commit}}")
    if done.returncode == 0 and revision:
        return done.stdout.split()[-1]
    if run_git(root, "rev-parse", "--is-shallow-repository").stdout.strip() == "true":
        raise UserError(f"{revision!r} is not in this shallow clone", "git fetch --unshallow")
    raise UserError(f"there is no commit {revision!r}", "git log --oneline")


def run_git(root: Path, *arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    """Run git in `root`. Raises UserError where it is not installed."""
    try:
        return subprocess.run(
            ["git", *arguments],
            cwd=root,
            input=stdin,
            capture_output=True,
            text=True,
            encoding="utf-8",
            errors="replace",
        )
    except FileNotFoundError:
        raise UserError("git is not installed", "install it, then run this again") from None


def list_files(root: Path, commit: str | None, folder: str) -> list[str]:
    """Files below `folder` in a commit or, where it is None, in the workspace."""
    if commit is None:
        paths = (root / folder).rglob("*")
        return sorted(path.relative_to(root).as_posix() for path in paths if path.is_file())
    return run_git(
        root, "-c", "core.quotePath=off", "ls-tree", "-r", "--name-only", commit, folder
    ).stdout.splitlines()


def read_file(root: Path, commit: str | None, path: str) -> bytes | None:
    """A file of a commit or of the workspace; None where it is not there."""
    if commit is None:
        return (root / path).read_bytes() if (root / path).is_file() else None
    done = subprocess.run(["git", "show", f"{commit}:{path}"], cwd=root, capture_output=True)
    return done.stdout if done.returncode == 0 else None


def dvc_md5(root: Path, commit: str | None, path: str) -> str | None:
    """What DVC has as the hash of a file or folder of a commit or of the workspace; None where it is not there.

    Of a folder that is the MD5 of the sorted list of its files, and `.dir`.
    """
    files = {}
    if commit is None:
        for each in [root / path, *(root / path).rglob("*")]:
            if each.is_file() and "__pycache__" not in each.parts and each.name != ".gitkeep":  # .dvcignore
                with each.open("rb") as file:  # may be gigabytes
                    files[each.relative_to(root).as_posix()] = hashlib.file_digest(file, "md5").hexdigest()
    else:
        done = subprocess.run(["git", "archive", commit, "--", path], cwd=root, capture_output=True)
        if done.returncode == 0:
            with tarfile.open(fileobj=io.BytesIO(done.stdout)) as archive:
                for member in archive:
                    if (content := archive.extractfile(member)) and not member.name.endswith(".gitkeep"):
                        files[member.name] = hashlib.md5(content.read()).hexdigest()
    if path in files or not files:
        return files.get(path)
    listed = [{"md5": md5, "relpath": name.removeprefix(f"{path}/")} for name, md5 in sorted(files.items())]
    return f"{hashlib.md5(json.dumps(listed).encode()).hexdigest()}.dir"
