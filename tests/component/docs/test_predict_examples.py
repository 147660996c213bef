"""The examples of asking a model, from Python and with a file, run as they stand in the pages."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from cartlm import cli
from cartlm.metrics import write_metrics
from cartlm.task.intent import parse_intent
from tests import ROOT
from tests.component.docs.pages import Page
from tests.fixtures.baseline import write_baseline


@pytest.fixture
def shop(toy_gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with a model and a baseline."""
    write_baseline(tmp_path / "models/baseline/model.json")
    (tmp_path / "models/q4_k_m").mkdir()
    shutil.copy(toy_gguf, tmp_path / "models/q4_k_m/model.gguf")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def block(name: str, language: str, number: int = 0) -> str:
    return list(Page(name, (ROOT / name).read_text(encoding="utf-8")).blocks(language))[number]


@pytest.mark.parametrize(("name", "answers"), [("docs/guide/decoding.md", 2), ("docs/howto/ask.md", 1)])
def test_the_example_in_python_runs(
    shop: Path, capsys: pytest.CaptureFixture[str], name: str, answers: int
) -> None:
    exec(compile(block(name, "python"), name, "exec"), {})
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == answers
    for line in lines:
        answer, probability, took = line.rsplit(" ", 2)
        assert parse_intent(answer).product in ("Oat Milk 1 l", "Oat Milk 2 l", "Green Tea (20 bags)")
        assert 0 < float(probability) <= 1
        assert float(took) > 0


def test_an_answer_that_is_not_calibrated_goes_to_a_person(
    shop: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_metrics(shop / "metrics/eval/q4_k_m.json", {"constrained": {"confidence_at_90": 0.0}})
    exec(compile(block("docs/howto/ask.md", "python", 1), "ask.md", "exec"), {})
    assert capsys.readouterr().out == "to a person\n"


def test_the_file_of_messages_is_answered(shop: Path) -> None:
    (shop / "chat.csv").write_text(block("docs/howto/predict-a-file.md", "csv") + "\n", encoding="utf-8")
    arguments = ["predict", "--input", "chat.csv", "--output", "answers.csv", "--variant", "models/baseline"]
    done = CliRunner().invoke(cli.main, arguments)
    assert done.exit_code == 0, done.output
    with (shop / "answers.csv").open(encoding="utf-8", newline="") as file:
        found = [(row["id"], row["product"]) for row in csv.DictReader(file)]
    assert [id for id, _ in found] == ["a17", "a18"]
    assert {product for _, product in found} <= {"Milk 1L", "Milk 2L", "Oat Milk 1L"}
