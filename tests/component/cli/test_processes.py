"""The command line and a stage's command as real processes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests import ROOT

SCRIPT = """
import click
from cartlm import command

@command.command
@click.argument("name")
def main(name: str) -> None:
    pass

main()
"""
WAITING = """
import time
from cartlm import command
with command.alone("toy a"):
    print("held", flush=True)
    time.sleep(600)
"""


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    (folder / "toy.py").write_text(SCRIPT, encoding="utf-8")
    return subprocess.run(
        [sys.executable, "toy.py", *arguments], cwd=folder, capture_output=True, text=True,
        env={"PYTHONPATH": str(ROOT), "PATH": ""},
    )  # fmt: skip


def test_a_second_process_of_a_stage_is_refused(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", WAITING], cwd=tmp_path, stdout=subprocess.PIPE, text=True,
        env={"PYTHONPATH": str(ROOT), "PATH": ""},
    ) as first:  # fmt: skip
        try:
            assert first.stdout is not None
            assert first.stdout.readline() == "held\n"
            done = run(tmp_path, "a")
            assert done.returncode == 2
            assert f"toy a is already running here, as process {first.pid}" in done.stderr
            assert run(tmp_path, "b").returncode == 0
        finally:
            first.kill()
    assert run(tmp_path, "a").returncode == 0, "a killed one holds nothing"


def test_wrong_use_is_one_line(tmp_path: Path) -> None:
    done = run(tmp_path)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("cartlm: error: Missing argument 'NAME'")


def test_help_imports_nothing_heavy() -> None:
    code = "import sys, cartlm.cli; print([n for n in ('torch', 'transformers', 'llama_cpp', 'dvc') if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr
