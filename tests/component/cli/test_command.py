"""Every failure of a stage command: one line on stderr, exit code 2, no traceback."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests import ROOT

SCRIPT = """
import click
from cartlm import stage
from cartlm.errors import UserError

@stage.command
@click.argument("name")
def main(name: str) -> None:
    {body}
    stage.done({{"name": name, "text": "č"}})

main()
"""
SCRIPT_WAITING = """
import time
from cartlm import stage
with stage.alone("toy a"):
    print("held", flush=True)
    time.sleep(600)
"""
LIMIT = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000)); "


def run(tmp_path: Path, body: str, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    script = tmp_path / "toy.py"
    script.write_text(SCRIPT.format(body=body), encoding="utf-8")
    return subprocess.run(
        [sys.executable, script, *arguments], cwd=tmp_path, capture_output=True, text=True,
        env={"PYTHONPATH": str(ROOT), "PATH": "", **environ},
    )  # fmt: skip


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("raise UserError('rows = 0 is too few', 'dvc repro data')", ["rows = 0 is too few; dvc repro data"]),
        ("open('models/merged/config.json')", ["models/merged/config.json is missing; dvc repro merge"]),
        ("open('data/test.jsonl')", ["data/test.jsonl is missing; dvc repro data"]),
        ("import subprocess; subprocess.run(['llama-quantize'])", ["llama-quantize is missing; make setup"]),
        ("open('/')", ["Is a directory"]),
        ("raise PermissionError(13, 'Permission denied', 'runs')", ["no permission for runs; ls -ld runs"]),
        (LIMIT + "open('big', 'w').write('a' * 9999)", ["no space left", "free some space, then dvc repro"]),
        (
            LIMIT
            + "import numpy, safetensors.numpy as s; s.save_file({'a': numpy.zeros(9999)}, 'w.safetensors')",
            ["no space left", "free some space, then dvc repro"],
        ),
        ("raise OSError(28, 'No space left on device', 'models/f16')", ["no space left writing models/f16"]),
        ("raise MemoryError", ["out of memory"]),
        ("import json; json.loads('{oops')", ["not JSON", "{oops"]),
        ("import yaml; yaml.safe_load('a: [')", ["not YAML"]),
        ("b'\\xff'.decode('utf-8')", ["not UTF-8"]),
        (
            "open('w.safetensors', 'w').write('x'); "
            "import safetensors; safetensors.safe_open('w.safetensors', 'numpy')",
            ["broken weights"],
        ),
        ("raise KeyboardInterrupt", ["interrupted", "run the same command again"]),
        ("import no_such_package", ["no_such_package is not installed; make setup"]),
        ("raise click.UsageError('too\\nmany')", ["too many; toy.py --help"]),
        (
            "raise RuntimeError('odd\\nthing')",
            ["unexpected RuntimeError: odd thing; run again with CARTLM_DEBUG=1"],
        ),
        ("raise ValueError('odd')", ["unexpected ValueError: odd"]),
        ("print(stage.params())", ["params.yaml is missing; make preset NAME=offline"]),
    ],
)
def test_one_line_and_exit_code_2(tmp_path: Path, body: str, words: list[str]) -> None:
    done = run(tmp_path, body, "a")
    lines = done.stderr.splitlines()
    assert done.returncode == 2
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("cartlm: error: ")
    for word in words:
        assert word in lines[0]
    assert done.stdout == ""


@pytest.mark.parametrize(
    ("arguments", "word"), [([], "Missing argument 'NAME'"), (["a", "b"], "extra argument")]
)
def test_wrong_use_is_one_line(tmp_path: Path, arguments: list[str], word: str) -> None:
    done = run(tmp_path, "pass", *arguments)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert word in done.stderr


def test_debug_keeps_the_traceback_of_the_unexpected_only(tmp_path: Path) -> None:
    odd = run(tmp_path, "raise RuntimeError('odd')", "a", CARTLM_DEBUG="1")
    assert odd.returncode == 2
    assert "Traceback" in odd.stderr
    assert odd.stderr.splitlines()[-1].startswith("cartlm: error: ")
    mistake = run(tmp_path, "raise UserError('rows = 0')", "a", CARTLM_DEBUG="1")
    assert mistake.stderr == "cartlm: error: rows = 0\n"


def test_done_is_the_last_json_line(tmp_path: Path) -> None:
    done = run(tmp_path, "print('first')", "a", PYTHONIOENCODING="utf-8")
    assert done.returncode == 0
    assert json.loads(done.stdout.splitlines()[-1]) == {"name": "a", "text": "č"}


def test_done_refuses_nan(tmp_path: Path) -> None:
    done = run(tmp_path, "stage.done({'loss': float('nan')})", "a")
    assert done.returncode == 2


def test_help_exits_with_0(tmp_path: Path) -> None:
    done = run(tmp_path, "pass", "--help")
    assert done.returncode == 0
    assert "NAME" in done.stdout


def test_a_second_one_beside_it_is_refused(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", SCRIPT_WAITING], cwd=tmp_path, stdout=subprocess.PIPE, text=True,
        env={"PYTHONPATH": str(ROOT), "PATH": ""},
    ) as first:  # fmt: skip
        try:
            assert first.stdout is not None
            assert first.stdout.readline() == "held\n"
            done = run(tmp_path, "pass", "a")
            assert done.returncode == 2
            assert f"toy a is already running here, as process {first.pid}" in done.stderr
            assert run(tmp_path, "pass", "b").returncode == 0
        finally:
            first.kill()
    assert run(tmp_path, "pass", "a").returncode == 0, "a killed one holds nothing"
