"""What git says of a checkout, as errors with a way out."""

from __future__ import annotations

import shlex
import subprocess
from pathlib import Path

import pytest

from cartlm.errors import UserError
from cartlm.pipeline import repository, stale


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "a b"
    subprocess.run(["git", "init", "-q", str(folder)], check=True)
    (folder / ".dvc").mkdir()
    (folder / "dvc.yaml").touch()
    return folder


def test_a_folder_below_names_the_top(root: Path) -> None:
    repository.check_repository(root)
    with pytest.raises(UserError) as failed:
        repository.check_repository(root / ".dvc")
    assert shlex.split(failed.value.hint) == ["cd", str(root)]


def test_another_owner_s_checkout_names_git_s_own_remedy(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")
    with pytest.raises(UserError) as failed:
        repository.check_repository(root)
    *command, folder = shlex.split(failed.value.hint)
    assert folder == str(root)
    assert command == ["git", "config", "--global", "--add", "safe.directory"]


def test_what_git_ignores_behind_a_link_is_not_guessed(root: Path) -> None:
    (root / ".gitignore").write_text("/data/\n/models/\n")
    assert stale.ignored(root, ["data/a", "models/f16", "x"]) == {"data/a", "models/f16"}
    (root / "data").symlink_to(root / ".dvc")
    with pytest.raises(UserError, match="symbolic link"):
        stale.ignored(root, ["data/a", "models/f16"])
