"""The examples of asking a model, from Python and with a file, run as they stand in the pages."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

import cartlm
from cartlm import cli, params
from cartlm.metrics import write_metrics
from cartlm.task.intent import Intent, parse_intent
from tests import ROOT
from tests.component.docs.pages import Page
from tests.fixtures.baseline import write_baseline

OAT = ["Oat Milk 1 l", "Oat Milk 2 l"]


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
    assert {product for _, product in found} <= {*OAT, "Green Tea (20 bags)"}


ASKED = [
    ("README.md", ["Jeans", "Flash Drive (64GB)", "Flash Drive (32GB)"], "daj mi 2 flash drivea, one od 64",
     Intent("add", "Flash Drive (64GB)", 2)),
    ("docs/howto/ask.md", [*OAT, "Green Tea (20 bags)"], "2 large oat milks please", Intent("add", OAT[1], 2)),
    ("docs/howto/predict-a-file.md", [*OAT, "Green Tea (20 bags)"], "no green tea after all",
     Intent("remove", "Green Tea (20 bags)", 1)),
    ("docs/guide/decoding.md", [*OAT, "Green Tea (20 bags)"], "no green tea after all",
     Intent("remove", "Green Tea (20 bags)", 1)),
    ("docs/serve.md", OAT, "2 large oat milks please", Intent("add", OAT[1], 2)),
    ("docs/serve.md", OAT, "remove oat milk 1 l", Intent("remove", OAT[0], 1)),
    ("docs/howto/deploy.md", ["Milk 1L", "Milk 2L"], "2 of the 2L milk", Intent("add", "Milk 2L", 2)),
    ("docs/howto/test-my-logs.md", ["Milk 1L", "Milk 2L"], "2 of the 2L milk please", Intent("add", "Milk 2L", 2)),
    ("docs/howto/test-my-logs.md", ["Milk 1L", "Milk 2L"], "makni mlijeko od litre", Intent("remove", "Milk 1L", 1)),
    ("cartlm/__init__.py", ["Milk 1 l", "Milk 2 l"], "2 of the 2L milk please", Intent("add", "Milk 2 l", 2)),
    ("cartlm/serving/model_card.md.jinja", ["Milk 1 l", "Milk 2 l"], "2 of the 2L milk", Intent("add", "Milk 2 l", 2)),
]  # fmt: skip
"""(file, catalog, message in it, what the default model has to make of it)."""


def test_the_default_model_understands_the_messages_of_the_docs(monkeypatch: pytest.MonkeyPatch) -> None:
    settings, model = params.load(ROOT / "params.yaml"), "models/q4_k_m/model.gguf"
    if not (ROOT / model).is_file():
        pytest.skip(f"{model} is not made here: make repro, or make pull")
    data = settings.data
    if (settings.base.source, data.source, data.none, data.train_languages) != ("embedded", "rules", 0, None):
        pytest.skip("params.yaml has another base model or other rows than the docs are about")
    monkeypatch.chdir(ROOT)
    with cartlm.load(model) as reader:
        found = {(file, text): reader.predict(catalog, text).intent for file, catalog, text, _ in ASKED}
    assert found == {(file, text): wanted for file, _, text, wanted in ASKED}


@pytest.mark.parametrize(("file", "message"), [(file, message) for file, _, message, _ in ASKED])
def test_these_messages_are_in_the_docs(file: str, message: str) -> None:
    assert message in (ROOT / file).read_text(encoding="utf-8")
