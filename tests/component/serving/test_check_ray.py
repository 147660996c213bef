"""`make check-ray` counts the parts that its kills left."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from tests.benchmarks import check_ray


@pytest.mark.parametrize(("messages", "left"), [(100_000, 47), (2000, 17), (30, 27), (41, 18)])
def test_all_parts_of_a_run_are_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, messages: int, left: int
) -> None:
    def killed(command: list[str], here: Path, output: Path, *_: Any, **__: Any) -> None:
        output.mkdir()
        for number in range(3):
            (output / f"part-{number:06}.parquet").touch()

    monkeypatch.setattr(check_ray, "KEPT", tmp_path / "kept")
    monkeypatch.setattr(check_ray, "write_messages", lambda *_: None)
    monkeypatch.setattr(check_ray, "run", lambda _: "")
    monkeypatch.setattr(check_ray, "answers", lambda *_: [])
    monkeypatch.setattr(check_ray, "kill_worker_and_driver", killed)
    done = CliRunner().invoke(check_ray.main, ["--messages", str(messages)])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout.splitlines()[-1])["parts_after_kill"] == left
