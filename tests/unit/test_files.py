"""Files and folders are replaced whole or not at all."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from cartlm.files import replacing, scratch

DEAD = 2**22 + 1  # above the largest number of a process


def test_an_error_keeps_the_old_folder(tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    (tmp_path / "m/old").write_text("old")

    def fail() -> None:
        with replacing(tmp_path / "m", folder=True) as temporary:
            (temporary / "new").write_text("new")
            raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        fail()
    assert (tmp_path / "m/old").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


def test_a_kill_while_a_folder_is_replaced_keeps_the_old_one(tmp_path: Path) -> None:
    (tmp_path / f".tmp-{DEAD}-m").mkdir()
    (tmp_path / f".tmp-{DEAD}-m.replaced").mkdir()
    (tmp_path / f".tmp-{DEAD}-m.replaced/old").write_text("old")
    with pytest.raises(OSError, match="No space"), replacing(tmp_path / "m", folder=True):
        raise OSError(28, "No space left on device")
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["m", "old"]


def test_what_a_kill_after_the_replacement_left_is_removed(tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    (tmp_path / f".tmp-{DEAD}-m.replaced").mkdir()
    with replacing(tmp_path / "m", folder=True) as temporary:
        (temporary / "new").touch()
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["m", "new"]


def test_a_folder_that_cannot_be_renamed_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As overlayfs says of a folder that came with an image."""
    (tmp_path / "m").mkdir()
    (tmp_path / "m/old").touch()
    monkeypatch.setattr(
        Path, "rename", lambda *_: (_ for _ in ()).throw(OSError(errno.EXDEV, "Invalid link"))
    )
    with replacing(tmp_path / "m", folder=True) as temporary:
        (temporary / "new").touch()
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["m", "new"]


def test_a_folder_that_could_not_be_renamed_is_put_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "m").mkdir()
    (tmp_path / "m/old").write_text("old")
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError(5, "Input/output error")))
    with pytest.raises(OSError, match="Input/output"), replacing(tmp_path / "m", folder=True):
        pass
    assert [path.name for path in tmp_path.rglob("*")] == ["m", "old"]


def test_scratch_is_gone_at_the_end_and_after_a_kill(tmp_path: Path) -> None:
    (tmp_path / f".tmp-{DEAD}-model.work").mkdir()
    with scratch(tmp_path / "model") as folder:
        assert [path.name for path in tmp_path.iterdir()] == [folder.name]
        (folder / "big").write_text("x")
        with replacing(tmp_path / "model", folder=True) as other:  # beside it, as stage base does
            (other / "part").write_text((folder / "big").read_text())
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_only_what_dead_processes_left_for_the_same_file_is_removed(tmp_path: Path) -> None:
    others = {f".tmp-{DEAD}-may-june.csv", f".tmp-{os.getppid()}-june.csv", ".tmp-june.csv"}
    for name in {*others, f".tmp-{DEAD}-june.csv", f".tmp-{os.getpid()}-june.csv"}:
        (tmp_path / name).touch()
    with replacing(tmp_path / "june.csv") as temporary:
        temporary.write_text("new")
    assert {path.name for path in tmp_path.iterdir()} == {*others, "june.csv"}


def test_a_process_with_the_same_number_that_began_later_is_no_writer(tmp_path: Path) -> None:
    left = tmp_path / f".tmp-{os.getppid()}-june.csv"
    left.touch()
    os.utime(left, (0, 0))
    with replacing(tmp_path / "june.csv") as temporary:
        temporary.touch()
    assert [path.name for path in tmp_path.iterdir()] == ["june.csv"]


def test_a_name_with_brackets_is_no_pattern(tmp_path: Path) -> None:
    (tmp_path / f".tmp-{DEAD}-a[1].csv").touch()
    with replacing(tmp_path / "a[1].csv") as temporary:
        temporary.touch()
    assert [path.name for path in tmp_path.iterdir()] == ["a[1].csv"]


def test_folders_in_a_folder_stay_open(tmp_path: Path) -> None:
    with replacing(tmp_path / "m", folder=True) as temporary:
        (temporary / "inner").mkdir()
        (temporary / "inner/file").write_text("new")
        (temporary / "inner/file").chmod(0o600)
    assert (tmp_path / "m/inner").stat().st_mode & 0o777 == 0o755 & ~umask()
    assert (tmp_path / "m/inner/file").stat().st_mode & 0o777 == 0o644


def umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
