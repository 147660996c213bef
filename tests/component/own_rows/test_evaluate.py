"""cartlm evaluate on a real model, a toy that answers its training rows: the figures of the stage, pairs, kill and resume."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from click.testing import CliRunner, Result

from cartlm import cli
from cartlm.engines.collect import file_digest
from cartlm.evaluation import reading
from cartlm.metrics import read_metrics, write_metrics
from cartlm.serving.reader import Prediction, Reader
from cartlm.task import rows as row_files
from stages import evaluate as stage
from tests import ROOT
from tests.fixtures import fixed_params
from tests.fixtures.baseline import write_baseline
from tests.fixtures.killed import killed_at_the_tenth
from tests.fixtures.servers import Naughty, no_surroundings
from tests.fixtures.toy import TRAINED, toy_rows
from tests.unit.own_rows.test_command import FOREIGN
from tests.unit.own_rows.test_labelled import write_foreign

__all__ = ["no_surroundings"]
Evaluate = Callable[..., Result]


@pytest.fixture
def shop(tmp_path: Path, toy_gguf: Path, toy_model: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory: models, the toy rows as the test split and as another shop's CSV."""
    fixed_params.write(tmp_path)
    (tmp_path / "models/f16").mkdir(parents=True)
    (tmp_path / "models/f16/model.gguf").symlink_to(toy_gguf)
    (tmp_path / "models/merged").symlink_to(toy_model)
    write_baseline(tmp_path / "models/baseline/model.json")
    for split in ("test", "validation"):
        row_files.write(tmp_path / f"data/{split}.jsonl", toy_rows())
    for empty in ("published", "none"):
        (tmp_path / f"data/{empty}.jsonl").touch()
    natural = tmp_path / stage.NATURAL
    row_files.write(natural, toy_rows()[TRAINED - 4 : TRAINED + 4])
    write_foreign(tmp_path / "logs.csv")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def evaluate(shop: Path) -> Evaluate:
    def run(*arguments: str) -> Result:
        return CliRunner().invoke(cli.main, ["evaluate", "logs.csv", *FOREIGN, *arguments])

    return run


def values(done: Result) -> dict[str, Any]:
    assert done.exit_code == 0, done.output
    return dict(json.loads(done.stdout))


@pytest.mark.parametrize("variant", ["f16", "merged", "baseline"])
def test_the_figures_are_those_of_the_stage_to_the_row(evaluate: Evaluate, shop: Path, variant: str) -> None:
    assert CliRunner().invoke(stage.main, [variant]).exit_code == 0
    metrics = read_metrics(shop / f"metrics/eval/{variant}.json")
    raw = (shop / f"runs/eval/{variant}.jsonl").read_text("utf-8").splitlines()
    texts = [json.loads(line)["answer"]["text"] for line in raw]
    for way in ("free",) if variant == "baseline" else ("free", "constrained", "ensemble"):
        options = (
            "--variant",
            variant,
            "--decoding",
            way,
            "--timed",
            "3",
            "--output",
            "wrong.jsonl",
            "--json",
        )
        found = values(evaluate(*options))["variants"][variant]
        shared = metrics[way].keys() & found.keys()
        assert len(shared) == 11
        assert {key: found[key] for key in shared} == {key: metrics[way][key] for key in shared}
        assert found["latency_n"] == 3
        wrong = [json.loads(line) for line in (shop / "wrong.jsonl").read_text("utf-8").splitlines()]
        if way == "free":
            lines = [1 + sum(len(row.catalog) for row in toy_rows()[:at]) + 1 for at in range(24)]
            answers = dict(zip(lines, texts, strict=True))
            assert 0 < len(wrong) < 24
            assert all(row["answers"][variant]["answer"] == answers[row["line"]] for row in wrong)


def test_two_variants_are_paired_and_told_side_by_side(evaluate: Evaluate, toy_gguf: Path) -> None:
    done = evaluate("--variant", "f16", "--variant", "baseline", "--show", "99", "--timed", "0")
    assert done.exit_code == 0, done.output
    assert "baseline against f16: −" in done.stdout
    head = next(line for line in done.stdout.splitlines() if line.startswith("line "))
    assert head.split() == ["line", "message", "label", "f16", "baseline"]
    again = values(evaluate("--variant", "f16", "--variant", str(toy_gguf), "--json", "--timed", "0"))
    (pair,) = again["paired"]
    assert (pair["lost"], pair["won"], pair["p"]) == (0, 0, 1.0)


def test_constrained_answers_are_of_the_catalog(evaluate: Evaluate, shop: Path) -> None:
    """Also a folder of transformers: the rows that the toy was not trained on are answered within their catalogs."""
    found = {}
    for way in ("free", "constrained"):
        done = values(
            evaluate("--variant", str(shop / "models/merged"), "--decoding", way, "--json", "--timed", "0")
        )
        (found[way],) = done["variants"].values()
        assert found[way]["engine"]["decoding"] == way
    assert found["free"]["outside_catalog"] + found["free"]["unparseable"] > 0, "nothing was tested"
    assert found["constrained"]["outside_catalog"] == found["constrained"]["unparseable"] == 0


def test_latency_is_that_of_the_reader_that_users_load(
    evaluate: Evaluate, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With its drafts and its prefix cache, which the row that warms up does not fill; answers that are no intent count, too."""
    predict, asked = Reader.predict, list[Prediction]()

    def slowly(self: Reader, catalog: Sequence[str], message: str) -> Prediction:
        time.sleep(0.5)
        asked.append(predict(self, catalog, message))
        return asked[-1]

    with monkeypatch.context() as patch:
        patch.setattr(Reader, "predict", slowly)
        found = values(evaluate("--variant", "f16", "--json", "--timed", "2"))["variants"]["f16"]
    assert (found["latency_n"], found["latency_ms_p50"] > 500) == (2, True)
    assert [each.work.cached_tokens for each in asked] == [0, 0, 0]
    assert any(each.work.drafted for each in asked)
    found = values(evaluate("--variant", "f16", "--decoding", "free", "--json", "--timed", "24"))
    free = found["variants"]["f16"]
    assert free["outside_catalog"] + free["unparseable"] > 0
    assert free["latency_n"] == 24


def test_an_ensemble_needs_a_margin_and_a_baseline_before_anything_is_asked(
    evaluate: Evaluate, shop: Path
) -> None:
    options = ("--variant", "f16", "--decoding", "ensemble", "--timed", "0")
    done = evaluate(*options)
    assert (done.exit_code, "no margin" in done.stderr) == (2, True), done.output
    within = reading.Within(1000, shop / "models/baseline/model.json")
    inputs = reading.inputs(file_digest(shop / "models/f16/model.gguf"), "\n", within)
    write_metrics(shop / "metrics/eval/f16.json", {"ensemble_calibration": {"margin": 1.0}, "inputs": inputs})
    assert evaluate(*options).exit_code == 0
    (shop / "models/baseline/model.json").unlink()
    done = evaluate(*options)
    assert (done.exit_code, "no baseline" in done.stderr) == (2, True), done.output


def test_rows_that_do_not_fit_into_the_model_are_told(evaluate: Evaluate, shop: Path) -> None:
    row = toy_rows()[0]
    with (shop / "logs.csv").open("a", encoding="utf-8", newline="") as file:
        label, catalog = row.intent, "\n".join([*row.catalog, "a very " + "long " * 400 + "name"])
        cells = [row.message, label.product, "kaufen", label.quantity, catalog, "A"]
        csv.writer(file, delimiter=";").writerow([99, *cells])
    done = evaluate("--variant", "f16", "--json", "--timed", "2")
    found = values(done)["variants"]["f16"]
    assert found["n"] == 25
    assert any("keep their free ones: logs.csv:" in note for note in found["notes"])
    assert any("longer than those of training" in note for note in found["notes"])
    assert found["notes"][0] in done.stderr


def test_kill_9_then_again_goes_on_and_gives_the_same(
    evaluate: Evaluate, shop: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ("--variant", "f16", "--json", "--timed", "0")
    wanted = values(evaluate(*options))
    shutil.rmtree(shop / "runs/evaluate")
    command = killed_at_the_tenth("from cartlm.cli import main; main(sys.argv[1:])")
    command += ["evaluate", "logs.csv", *FOREIGN, *options]
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    died = subprocess.run(command, cwd=shop, env=environ, capture_output=True, text=True)
    assert died.returncode == -signal.SIGKILL, died.stderr
    assert died.stdout == ""
    (part,) = (shop / "runs/evaluate").glob("*.jsonl")
    kept = len(part.read_text().splitlines())
    assert 1 <= kept <= 9
    done = evaluate(*options)
    assert f"{kept}/24" in done.stderr
    assert values(done) == wanted
    complete = evaluate(*options, "--slice", "Haus")
    assert "0/24" not in complete.stderr
    assert values(complete)["variants"]["f16"]["exact_match"] == wanted["variants"]["f16"]["exact_match"]


def test_a_server_is_asked_once(evaluate: Evaluate, shop: Path) -> None:
    """Beside a variant, with the bare prompt; a second run asks nothing and sends no key anywhere."""
    rows = toy_rows()
    with Naughty(
        {row.prompt + "\n": row.completion for row in rows[1:]} | {rows[0].prompt + "\n": "no"}
    ) as server:
        options = ("--variant", "baseline", "--server", server.url, "--model", "m", "--json", "--timed", "0")
        found = values(evaluate(*options))
        name = f"m@{urlsplit(server.url).netloc}"
        assert found["variants"][name]["exact_match"] == round(23 / 24, 4)
        assert found["variants"][name]["latency_n"] == 24
        assert found["paired"][0]["second"] == name
        assert len(server.seen) == 24
        assert values(evaluate(*options)) == found
        assert len(server.seen) == 24
