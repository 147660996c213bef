"""cartlm predict on a real model: a toy that answers its training rows."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from cartlm import cli
from tests import ROOT
from tests.fixtures.toy import LINES, toy_rows

Predict = Callable[..., Result]


@pytest.fixture
def repo(tmp_path: Path, toy_gguf: Path, toy_model: Path) -> Path:
    shutil.copy(ROOT / "params.yaml", tmp_path)
    for variant in ("f16", "q4_k_m"):  # the toy is too narrow for a K-quant: the name alone counts here
        (tmp_path / "models" / variant).mkdir(parents=True)
        (tmp_path / "models" / variant / "model.gguf").symlink_to(toy_gguf)
    (tmp_path / "models/merged").symlink_to(toy_model)
    return tmp_path


@pytest.fixture
def predict(repo: Path, monkeypatch: pytest.MonkeyPatch) -> Predict:
    monkeypatch.chdir(repo)

    def run(*arguments: str, stdin: bytes = b"") -> Result:
        return CliRunner().invoke(cli.main, ["predict", *arguments], input=io.BytesIO(stdin))

    return run


def catalog(repo: Path, lines: list[str], end: str = "\n") -> str:
    path = repo / "catalog.txt"
    path.write_bytes("".join(line + end for line in lines).encode())
    return str(path)


@pytest.mark.parametrize("variant", [None, "f16", "q4_k_m", "merged"])
def test_a_message_becomes_the_json_of_its_intent(predict: Predict, repo: Path, variant: str | None) -> None:
    row = toy_rows()[0]
    asked = [] if variant is None else ["--variant", variant]
    done = predict("--catalog", catalog(repo, row.catalog), row.message, *asked)
    assert (done.exit_code, done.stdout) == (0, row.completion + "\n"), done.output


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_lines_of_standard_input_are_messages(predict: Predict, repo: Path, end: str) -> None:
    first = toy_rows()[0]
    same = [row for row in toy_rows()[:18] if row.catalog == first.catalog]
    sent = "".join(row.message + "\r\n" for row in same).encode()
    done = predict("--catalog", catalog(repo, first.catalog, end), "-", stdin=sent)
    assert done.stdout.splitlines() == [row.completion for row in same]
    assert done.exit_code == 0


def test_each_line_gets_a_line_and_what_was_not_read_says_why(predict: Predict, repo: Path) -> None:
    row = toy_rows()[0]
    sent = [row.message.encode(), b"", b"\xe8okolada", b"add 1 unicorn, and fast", row.message.encode()]
    done = predict("--catalog", catalog(repo, row.catalog), "-", stdin=b"\n".join(sent))
    lines = [json.loads(line) for line in done.stdout.split("\n")[:-1]]
    assert len(lines) == 5
    assert lines[0] == lines[4] == json.loads(row.completion)
    assert "blank" in lines[1]["error"]
    assert "U+FFFD" in lines[2]["error"]
    assert done.exit_code == 1


def test_a_product_that_the_catalog_lacks_is_an_error_with_the_answer(predict: Predict, repo: Path) -> None:
    row = toy_rows()[0]
    others = [line for line in row.catalog if line != row.intent.product]
    done = predict("--catalog", catalog(repo, others), row.message)
    answer = json.loads(done.stdout)
    assert set(answer) == {"error", "answer"} or answer["product"] in others
    assert done.exit_code == (1 if "error" in answer else 0)


def test_a_model_that_is_not_made_yet_names_the_command_that_makes_it(predict: Predict, repo: Path) -> None:
    path = catalog(repo, list(LINES))
    failed(
        predict("--catalog", path, "tea", "--variant", "q8_0"), "models/q8_0/model.gguf is missing; dvc repro"
    )
    failed(predict("--catalog", path, "tea", "--variant", "q9"), "'q9'", "q8_0")
    (repo / "models/q4_k_m/model.gguf").unlink()
    failed(predict("--catalog", path, "tea"), "models/q4_k_m/model.gguf is missing; dvc repro")


def failed(done: Result, *words: str) -> None:
    assert done.exit_code == 2, done.output
    assert len(done.stderr.splitlines()) == 1, done.stderr
    for word in words:
        assert word in done.stderr
