"""Every failure of a stage's command: one line on stderr, exit code 2, no traceback."""

from __future__ import annotations

import json
import resource
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from cartlm import command

SCRIPT = """
import click
from cartlm import command
from cartlm.errors import UserError

@command.command
@click.argument("name")
def main(name: str) -> None:
    {body}
    command.done({{"name": name, "text": "č"}})
"""
LIMIT = (
    "import resource; hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]; "
    "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard)); "
)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def run(body: str, *arguments: str) -> Result:
    """Run a stage's command of this body."""
    namespace = {"__name__": "toy"}
    exec(SCRIPT.format(body=body), namespace)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        return CliRunner().invoke(namespace["main"], arguments, prog_name="toy.py")  # type: ignore[arg-type]
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("raise UserError('rows = 0 is too few', 'dvc repro data')", ["rows = 0 is too few; dvc repro data"]),
        ("open('models/merged/config.json')", ["models/merged/config.json is missing; dvc repro merge"]),
        ("open('data/test.jsonl')", ["data/test.jsonl is missing; dvc repro data"]),
        (
            "raise FileNotFoundError(2, 'No such file', 'llama-quantize')",
            ["llama-quantize is missing; make setup"],
        ),
        ("open('/')", ["Is a directory"]),
        ("raise PermissionError(13, 'Permission denied', 'runs')", ["no permission for runs; ls -ld runs"]),
        (LIMIT + "open('big', 'w').write('a' * 9999)", ["no space left", "free some space, then dvc repro"]),
        (
            LIMIT
            + "import numpy, safetensors.numpy as s; s.save_file({'a': numpy.zeros(9999)}, 'w.safetensors')",
            ["no space left", "free some space, then dvc repro"],
        ),
        ("raise OSError(28, 'No space left on device', 'models/f16')", ["no space left writing models/f16"]),
        (
            "raise MemoryError",
            ["out of memory; close other programs or lower the batch size", ", then dvc repro"],
        ),
        ("import json; json.loads('{oops')", ["not JSON", "{oops"]),
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
        ("print(command.params())", ["no params.yaml of cartlm", "cd into a checkout"]),
        ("open('m.gguf')", ["m.gguf is missing"]),
    ],
)
def test_one_line_and_exit_code_2(body: str, words: list[str]) -> None:
    done = run(body, "a")
    lines = done.stderr.splitlines()
    assert done.exit_code == 2
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("cartlm: error: ")
    for word in words:
        assert word in lines[0]
    assert done.stdout == ""


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (
            OSError(
                28, "No space left on device", "models/f16/model.gguf", None, "disk/.tmp-7-out/model.gguf"
            ),
            "no space left writing disk/out/model.gguf; free some space, then the same command",
        ),
        (MemoryError(), "out of memory; close other programs, then the same command"),
    ],
)
def test_what_is_no_stage_is_typed_again(error: Exception, line: str) -> None:
    """A copy that fails names its source first, and the temporary name of a folder tells nobody anything."""

    @click.command(cls=command.Guard)
    def predict() -> None:
        raise error

    assert CliRunner().invoke(predict).stderr == f"cartlm: error: {line}\n"


@pytest.mark.parametrize(
    ("arguments", "word"), [([], "Missing argument 'NAME'"), (["a", "b"], "extra argument")]
)
def test_wrong_use_is_one_line(arguments: list[str], word: str) -> None:
    done = run("pass", *arguments)
    assert done.exit_code == 2
    assert len(done.stderr.splitlines()) == 1
    assert word in done.stderr


def test_debug_keeps_the_traceback_of_the_unexpected_and_of_what_caused_a_mistake(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CARTLM_DEBUG", "1")
    odd = run("raise RuntimeError('odd')", "a")
    assert odd.exit_code == 2
    assert "Traceback" in odd.stderr
    assert odd.stderr.splitlines()[-1].startswith("cartlm: error: ")
    mistake = run("raise UserError('rows = 0')", "a")
    assert mistake.stderr == "cartlm: error: rows = 0\n"
    caused = run("raise UserError('rows = 0') from KeyError('n')", "a")
    assert "KeyError: 'n'" in caused.stderr
    assert caused.stderr.splitlines()[-1] == "cartlm: error: rows = 0"


def test_done_is_the_last_json_line() -> None:
    done = run("print('first')", "a")
    assert done.exit_code == 0
    assert json.loads(done.stdout.splitlines()[-1]) == {"name": "a", "text": "č"}


def test_done_refuses_nan() -> None:
    done = run("command.done({'loss': float('nan')})", "a")
    assert done.exit_code == 2


def test_help_exits_with_0() -> None:
    done = run("pass", "--help")
    assert done.exit_code == 0
    assert "NAME" in done.stdout
