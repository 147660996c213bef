"""`make check-ray` counts the parts that its kills left, and goes on where it was stopped."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from cartlm.errors import UserError
from tests.benchmarks import check_ray


@pytest.fixture
def kills(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Commands that were killed, each after its third part; nothing is read by a model."""
    commands: list[list[str]] = []

    def killed(command: list[str], here: Path, output: Path, *_: Any, **__: Any) -> None:
        commands.append(command)
        output.mkdir()  # fails where parts are left, with which no worker would run
        for number in range(3):
            (output / f"part-{number:06}.parquet").touch()

    model = tmp_path / "model.gguf"
    model.touch()
    monkeypatch.setattr(check_ray, "KEPT", tmp_path / "kept")
    monkeypatch.setattr(
        check_ray, "find_model", lambda _: type("Model", (), {"path": model, "identity": model.read_text})
    )
    monkeypatch.setattr(check_ray, "write_messages", lambda path, *_: path.touch())
    monkeypatch.setattr(check_ray, "run", lambda _: "")
    monkeypatch.setattr(check_ray, "answers", lambda *_: [])
    monkeypatch.setattr(check_ray, "kill_worker_and_driver", killed)
    return commands


def invoke(*options: str) -> Result:
    rows = __file__  # any file: its rows are not read here, and data/ may not be made
    return CliRunner().invoke(check_ray.main, ["--rows", rows, *options])


def check(*options: str) -> dict[str, Any]:
    done = invoke(*options)
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout.splitlines()[-1])


def stopped_check(monkeypatch: pytest.MonkeyPatch, *options: str) -> None:
    """Stopped after the kill, when the run is to be resumed."""

    def stopped(arguments: list[str]) -> str:
        if "--ray" in arguments:
            raise UserError("stopped", "again")
        return ""

    with monkeypatch.context() as patched:
        patched.setattr(check_ray, "run", stopped)
        assert "stopped" in invoke(*options).output


@pytest.mark.parametrize(("messages", "left"), [(100_000, 47), (2000, 17), (30, 27), (41, 18)])
def test_all_parts_of_a_run_are_counted(kills: list[list[str]], messages: int, left: int) -> None:
    assert check("--messages", str(messages))["parts_after_kill"] == left


def test_a_stopped_check_goes_on_without_another_kill(
    kills: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped_check(monkeypatch, "--messages", "2000")
    (check_ray.KEPT / "killed/part-000003.parquet").touch()
    assert check("--messages", "2000")["parts_after_kill"] == 17
    assert len(kills) == 1


def test_another_number_of_messages_or_model_is_another_check(
    kills: list[list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for arguments in (("--messages", "2000"), ("--messages", "30")):
        stopped_check(monkeypatch, *arguments)
    (tmp_path / "model.gguf").write_text("another")
    stopped_check(monkeypatch, "--messages", "30")
    assert len(kills) == 3


def test_a_finished_check_is_not_taken_for_the_next_one(kills: list[list[str]]) -> None:
    check("--messages", "2000")
    check("--messages", "2000")
    assert len(kills) == 2


def test_a_check_stopped_before_its_kill_begins_that_part_again(
    kills: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped_check(monkeypatch, "--messages", "2000")
    (check_ray.KEPT / "after-kill.json").unlink()
    assert check("--messages", "2000")["parts_after_kill"] == 17
    assert len(kills) == 2
