"""Which checkpoints count: whole ones, of this run's key."""

from __future__ import annotations

from pathlib import Path

import pytest

from cartlm.training import checkpoints


def write(run: Path, step: int, mark: bool = True) -> Path:
    folder = run / f"checkpoint-{step}"
    folder.mkdir(parents=True)
    for name in ("adapter_model.safetensors", "optimizer.pt", "trainer_state.json"):
        (folder / name).write_bytes(b"x" * 100)
    if mark:
        checkpoints.mark_complete(folder)
    return folder


def test_the_newest_whole_one_is_taken_by_number(tmp_path: Path) -> None:
    assert checkpoints.last_complete(tmp_path) is None
    for step in (50, 100, 1000):
        write(tmp_path, step)
    assert checkpoints.last_complete(tmp_path) == tmp_path / "checkpoint-1000"


@pytest.mark.parametrize("damage", ["no mark", "short", "missing", "empty mark", "more"])
def test_a_half_written_one_is_passed_over_and_removed(tmp_path: Path, damage: str) -> None:
    write(tmp_path, 50)
    last = write(tmp_path, 100, mark=damage != "no mark")
    if damage == "short":
        (last / "optimizer.pt").write_bytes(b"x" * 99)
    if damage == "missing":
        (last / "optimizer.pt").unlink()
    if damage == "empty mark":
        (last / checkpoints.MARK).write_text("")
    if damage == "more":
        (last / "tmp_half").write_bytes(b"x")
    assert checkpoints.last_complete(tmp_path) == tmp_path / "checkpoint-50"
    assert not last.exists()


def test_the_key_follows_settings_and_bytes(tmp_path: Path) -> None:
    path = tmp_path / "train.jsonl"
    path.write_text("a")
    first = checkpoints.run_key({"a": 1, "b": 2}, [path])
    assert checkpoints.run_key({"b": 2, "a": 1}, [path]) == first
    assert checkpoints.run_key({"a": 1, "b": 3}, [path]) != first
    path.write_text("b")
    assert checkpoints.run_key({"a": 1, "b": 2}, [path]) != first


def test_other_runs_are_forgotten(tmp_path: Path) -> None:
    for key in ("aaaa", "bbbb", "cccc"):
        write(tmp_path / key, 5)
    checkpoints.remove_other_runs(tmp_path, "bbbb")
    assert [path.name for path in tmp_path.iterdir()] == ["bbbb"]
