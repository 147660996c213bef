"""Commits and the workspace of a repository, through git."""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
import tarfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from shlex import quote
from typing import Any

from cartlm import yaml_files
from cartlm.errors import UserError

WORKSPACE = "workspace"


def check_repository(root: Path) -> None:
    """Raises UserError unless `root` is the top of a git repository with a DVC pipeline."""
    done = run_git(root, "rev-parse", "--show-toplevel")
    if done.returncode != 0:
        why = (done.stderr.strip() or "git failed").splitlines()[0]
        way = f"git config --global --add safe.directory {quote(str(root.resolve()))}"
        raise UserError(
            f"{root.resolve()} is no git repository: {why}",
            way if "dubious ownership" in why else "cd into one",
        )
    top = Path(done.stdout.strip())
    if top.resolve() != root.resolve() or not ((root / ".dvc").is_dir() and (root / "dvc.yaml").is_file()):
        raise UserError(
            f"{root.resolve()} is not the top of a repository with a dvc.yaml", f"cd {quote(str(top))}"
        )


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
        # a user's setting that puts lines into the output of `git log`
        command = ["git", "-c", "log.showSignature=false", "-C", str(root), *arguments]
        return subprocess.run(command, input=stdin, capture_output=True, encoding="utf-8", errors="replace")
    except FileNotFoundError:
        raise UserError("git is not installed", "install it, then run this again") from None


@dataclass(frozen=True)
class Tree:
    """The files of a commit or, where that is None, of the workspace. Paths are from `below`, a folder of `root`: none of its
    files where that has no such folder.
    """

    root: Path
    commit: str | None = None
    below: str = ""

    @property
    def name(self) -> str:
        return self.commit[:8] if self.commit else WORKSPACE

    @cached_property
    def _files(self) -> Any:
        import fsspec

        root = str(self.root.resolve())
        if self.commit is None:
            return fsspec.filesystem("dir", path=str(Path(root, self.below)), target_protocol="file")
        # git itself: libgit2 does not fetch what a partial clone lacks
        tree = f"{self.commit}:{self.below}" if self.below else self.commit
        packed = subprocess.run(["git", "-C", root, "archive", tree], capture_output=True, check=False)
        if packed.returncode and self._lacks_below():
            return fsspec.filesystem("tar", fo=io.BytesIO(bytes(tarfile.RECORDSIZE)))  # an archive of nothing
        if packed.returncode:
            what = f"git archive {self.name}: {packed.stderr.decode(errors='replace').strip()[-200:]}"
            raise UserError(what, "git fetch, or git fsck")
        return fsspec.filesystem("tar", fo=io.BytesIO(packed.stdout))

    def _lacks_below(self) -> bool:
        """Whether the commit is there, and has no folder `below`."""
        listed = run_git(self.root, "ls-tree", str(self.commit), "--", self.below)
        return bool(self.below) and listed.returncode == 0 and not listed.stdout

    def find(self, folder: str) -> list[str]:
        """Files below a folder, sorted; no links to what is not there, such as an editor's lock."""
        return sorted(filter(self._files.isfile, self._files.find(folder)))

    def folders(self, path: str) -> list[str]:
        """Names of the folders directly in a folder that have a file, sorted."""
        parts = [each.removeprefix(f"{path}/").split("/") for each in self.find(path)]
        return sorted({names[0] for names in parts if len(names) > 1})

    def read(self, path: str) -> bytes | None:
        """A file; None where there is none."""
        return self._files.cat_file(path) if self._files.isfile(path) else None

    def md5(self, path: str) -> str | None:
        """What DVC has as the hash of a file or folder; None where it is not there.

        Of a folder that is the MD5 of the sorted list of its files, and `.dir`.
        """
        files = {}
        for each in self.find(path):
            if "/__pycache__/" not in each and not each.endswith("/.gitkeep"):  # .dvcignore
                with self._files.open(each) as file:  # may be gigabytes
                    files[each] = hashlib.file_digest(file, "md5").hexdigest()
        if path in files or not files:
            return files.get(path)
        listed = [{"md5": md5, "relpath": name.removeprefix(f"{path}/")} for name, md5 in files.items()]
        return f"{hashlib.md5(json.dumps(listed).encode()).hexdigest()}.dir"

    def place(self, path: str, command: str = "checkout") -> tuple[str, str]:
        """A broken file as an error names it, and the command that shows or, in the workspace, restores it."""
        path = f"{self.below}/{path}" if self.below else path
        if self.commit:
            return f"{path} of {self.name}", f"git show {self.name}:{path}"
        return path, f"git {command} {path}"

    def yaml(self, path: str) -> dict[str, Any]:
        """The sections of a YAML file; none where it is missing. Raises UserError for any other file."""
        where, next = self.place(path, "diff")
        values = yaml_files.parse(self.read(path) or b"", where, next) or {}
        if not isinstance(values, dict):
            raise UserError(f"{where} has no sections", next)
        return values
