"""`make check-ray` counts the parts that its kills left, and goes on where it was stopped."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from cartlm.errors import UserError
from tests.benchmarks import check_ray


@pytest.fixture
def kills(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Commands that were killed, each after its third part; nothing is read by a model."""
    commands: list[list[str]] = []

    def killed(command: list[str], here: Path, output: Path, *_: Any, **__: Any) -> None:
        commands.append(command)
        output.mkdir()
        for number in range(3):
            (output / f"part-{number:06}.parquet").touch()

    model = tmp_path / "model.gguf"
    model.touch()
    monkeypatch.setattr(check_ray, "KEPT", tmp_path / "kept")
    monkeypatch.setattr(check_ray, "find_model", lambda _: type("Model", (), {"path": model}))
    monkeypatch.setattr(check_ray, "write_messages", lambda path, *_: path.touch())
    monkeypatch.setattr(check_ray, "run", lambda _: "")
    monkeypatch.setattr(check_ray, "answers", lambda *_: [])
    monkeypatch.setattr(check_ray, "kill_worker_and_driver", killed)
    return commands


def check(*options: str) -> dict[str, Any]:
    done = CliRunner().invoke(check_ray.main, [*options])
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize(("messages", "left"), [(100_000, 47), (2000, 17), (30, 27), (41, 18)])
def test_all_parts_of_a_run_are_counted(kills: list[list[str]], messages: int, left: int) -> None:
    assert check("--messages", str(messages))["parts_after_kill"] == left


def test_a_stopped_check_goes_on_without_another_kill(
    kills: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(arguments: list[str]) -> str:
        if "--ray" in arguments:
            raise UserError("stopped", "again")
        return ""

    with monkeypatch.context() as patched:
        patched.setattr(check_ray, "run", stopped)
        assert CliRunner().invoke(check_ray.main, ["--messages", "2000"]).exit_code == 2
    (check_ray.KEPT / "killed/part-000003.parquet").touch()
    assert check("--messages", "2000")["parts_after_kill"] == 17
    assert len(kills) == 1


def test_another_number_of_messages_or_model_is_another_check(kills: list[list[str]], tmp_path: Path) -> None:
    check("--messages", "2000")
    check("--messages", "30")
    (tmp_path / "model.gguf").write_text("another")
    check("--messages", "30")
    assert len(kills) == 3
