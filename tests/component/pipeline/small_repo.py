"""A git and DVC repository of shell commands, in which a graph runs in a second."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from click.testing import CliRunner
from dvc.repo import Repo as DvcRepo

from cartlm import cli


@dataclass(frozen=True)
class Repo:
    path: Path

    def run(self, *command: str) -> str:
        done = subprocess.run(command, cwd=self.path, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout.strip()

    def git(self, *arguments: str) -> str:
        return self.run("git", "-c", "user.name=t", "-c", "user.email=t@example.invalid", *arguments)

    def dvc(self, *arguments: str) -> str:
        return self.run(sys.executable, "-m", "dvc", *arguments)

    def repro(self, *arguments: str) -> None:
        self.dvc("repro", "-q", *arguments)

    def commit(self, message: str) -> str:
        self.git("add", "-A")
        self.git("commit", "-q", "-m", message)
        return self.git("rev-parse", "--short", "HEAD")

    def edit(self, name: str, old: str, new: str) -> None:
        before = (self.path / name).read_text("utf-8")
        assert old in before
        (self.path / name).write_text(before.replace(old, new), "utf-8")

    def cartlm(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """In this process."""
        with contextlib.chdir(self.path):
            done = CliRunner().invoke(cli.main, arguments)
        return subprocess.CompletedProcess(arguments, done.exit_code, done.stdout, done.stderr)


def make(folder: Path, files: Mapping[str, str]) -> Repo:
    """A repository with such files, nothing run or committed yet."""
    repo = Repo(folder)
    folder.mkdir()
    repo.git("init", "-q", "-b", "main")
    DvcRepo.init(str(folder)).close()
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, "utf-8")
    return repo
