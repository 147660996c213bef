"""The stage baseline and what reads its file: evaluation, predict, and the check after `make repro`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result

from cartlm import cli
from cartlm.baseline import engine
from cartlm.engines.answer import Stopped
from cartlm.errors import UserError
from cartlm.metrics import read_metrics, read_outcomes
from cartlm.task import rows as row_files
from cartlm.task.prompt import render_prompt
from stages import baseline, evaluate
from tests import ROOT
from tests.fixtures import fixed_params
from tests.fixtures.baseline import generated, write_baseline

MODEL = "models/baseline/model.json"


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """params.yaml and some rows of each split, as the working directory."""
    params: dict[str, Any] = fixed_params.values()
    params["eval"]["natural_rows"] = 0
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
    for name, count in (("train", 300), ("validation", 60), ("test", 40)):
        row_files.write(tmp_path / f"data/{name}.jsonl", generated(name, count))
    for empty in ("published", "none"):
        (tmp_path / f"data/{empty}.jsonl").touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(command: Any, *arguments: str) -> Result:
    return CliRunner().invoke(command, list(arguments))


def failed(done: Result, *words: str) -> None:
    assert done.exit_code == 2, done.output
    assert len(done.stderr.splitlines()) == 1, done.stderr
    for word in words:
        assert word in done.stderr


def test_it_is_fitted_evaluated_and_asked(shop: Path) -> None:
    done = run(baseline.main)
    assert done.exit_code == 0, done.output
    last = json.loads(done.stdout.splitlines()[-1])
    assert last.keys() == {"exact_match", "action", "product", "quantity"}
    assert 0.5 < last["exact_match"] <= min(last["action"], last["product"], last["quantity"])
    assert [path.name for path in (shop / "models/baseline").iterdir()] == ["model.json"]

    done = run(evaluate.main, "baseline")
    assert done.exit_code == 0, done.output
    found = read_metrics(shop / "metrics/eval/baseline.json")
    assert set(found) == {"free", "free_slices", "machine", "engine"}
    assert (found["free"]["n"], found["free"]["unparseable"], found["free"]["truncated"]) == (40, 0, 0)
    assert found["free"]["exact_match"] > 0.4
    assert found["engine"]["name"] == "rules"
    assert len(read_outcomes(shop / "metrics/outcomes/baseline.csv")) == 40

    (shop / "catalog.txt").write_text("Jeans\nFlash Drive (64GB)\nFlash Drive (32GB)\n", encoding="utf-8")
    asked = ("predict", "--catalog", "catalog.txt", "--variant", "baseline", "add 2 flash drives 64gb")
    done = run(cli.main, *asked)
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout) == {"action": "add", "product": "Flash Drive (64GB)", "quantity": 2}


def test_the_same_rows_give_the_same_bytes_in_any_process(shop: Path) -> None:
    made = []
    for seed in ("1", "2"):
        done = subprocess.run(
            [sys.executable, "-m", "stages.baseline"], capture_output=True, text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONHASHSEED": seed},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        made.append((shop / MODEL).read_bytes())
    assert made[0] == made[1]


def test_what_is_missing_or_broken_is_one_line_and_nothing_is_written(shop: Path) -> None:
    failed(run(evaluate.main, "baseline"), f"{MODEL} is missing; dvc repro baseline")
    (shop / "data/validation.jsonl").unlink()
    failed(run(baseline.main), "data/validation.jsonl is missing; dvc repro data")
    assert not (shop / "models").exists()
    write_baseline(shop / MODEL)
    (shop / MODEL).write_text((shop / MODEL).read_text()[:40], encoding="utf-8")
    failed(run(evaluate.main, "baseline"), MODEL, "no baseline of this version", "dvc repro -f -s baseline")
    assert not (shop / "metrics").exists()


def test_a_failed_fit_leaves_the_file_of_before(shop: Path) -> None:
    write_baseline(shop / MODEL)
    before = (shop / MODEL).read_bytes()
    (shop / "data/train.jsonl").write_text("{}\n", encoding="utf-8")
    failed(run(baseline.main), "data/train.jsonl:1")
    assert (shop / MODEL).read_bytes() == before


@pytest.mark.parametrize("separator", ["\n", "", "\nremove 7 čaj:\n", " "])
def test_the_engine_answers_prompts_whatever_their_separator(tmp_path: Path, separator: str) -> None:
    write_baseline(tmp_path / "model.json")
    with engine.load(tmp_path / "model.json") as loaded:
        builder = loaded.prompt_builder(separator)
        prompt = render_prompt(["Čaj (20 kom)", "Džem"], "3 džem")
        ids = builder.prompt_ids(prompt)
        answer = loaded.answer(ids, 1)
        assert answer.text == '{"action": "add", "product": "Džem", "quantity": 3}'
        assert (answer.finish_reason, answer.token_ids, answer.decoded_tokens) == ("stop", (), 0)
        assert answer.exact(answer.text)
        with pytest.raises(UserError, match="cannot read 'Tea"):
            loaded.answer(builder.prompt_ids("Tea, please"), 96)
        loaded.stopped = True
        with pytest.raises(Stopped):
            loaded.answer(ids, 96)
