"""The hash of a folder, against DVC's own."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
import yaml
from dvc.repo import Repo

from cartlm.pipeline import dvc_lock
from cartlm.pipeline.repository import Tree


def test_a_folder_has_the_hash_that_dvc_gives_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As DVC does, without what .dvcignore names; in a commit and in the workspace."""
    git = ["git", "-c", "user.name=t", "-c", "user.email=t@example.invalid", "-C", str(tmp_path)]
    subprocess.run([*git, "init", "-q"], check=True)
    Repo.init(str(tmp_path)).close()
    for name in ("a.py", "deep/b.py", "deep-c.py", "deep/__pycache__/b.pyc", ".gitkeep"):
        (tmp_path / "code" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "code" / name).write_text(name, encoding="utf-8")
    (tmp_path / ".dvcignore").write_text("__pycache__\n.gitkeep\n", encoding="utf-8")
    (tmp_path / ".gitignore").write_text("__pycache__\n", encoding="utf-8")
    stage = {"cmd": "true", "deps": ["code", "code/a.py"]}
    (tmp_path / "dvc.yaml").write_text(yaml.safe_dump({"stages": {"s": stage}}), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    with Repo() as repo:
        repo.reproduce()
    subprocess.run([*git, "add", "-A"], check=True)
    subprocess.run([*git, "commit", "-q", "-m", "x"], check=True)
    hashes = dvc_lock.read_stages(Tree(tmp_path))["s"].hashes
    for path in ("code", "code/a.py"):
        assert Tree(tmp_path, "HEAD").md5(path) == Tree(tmp_path).md5(path) == hashes[path]
    assert Tree(tmp_path, "HEAD").md5("none") is Tree(tmp_path).md5("none") is None
