"""The worked examples of docs/contributing work, applied to a copy of the library and run by the real stages."""

from __future__ import annotations

import json
import os
import random
import shlex
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from cartlm import cli
from cartlm.data import files, hub, offline
from cartlm.errors import UserError
from cartlm.metrics import read_metrics
from cartlm.task import rows as row_files
from tests import ROOT
from tests.component.docs.examples import first_line_engine, sqlite_source
from tests.component.docs.pages import Page
from tests.fixtures import fixed_params, working_tree
from tests.fixtures.baseline import write_baseline

EXAMPLES = ROOT / "tests/component/docs/examples"
DATA = fixed_params.load().data
FEW = DATA.model_copy(update={"train": 30, "validation": 6, "test": 6, "calibration": 9})
Apply = Callable[..., Path]


@pytest.fixture
def apply(tmp_path: Path) -> Apply:
    """Applies an example to a copy of the library: its module and its diff, and what differs in params.yaml."""

    def run(example: str, module: str, changes: dict[str, dict[str, Any]]) -> Path:
        copy = tmp_path / "copy"
        working_tree.copy(copy, "cartlm", "stages", "dvc.yaml")
        fixed_params.write(copy)
        (copy / "base").mkdir()
        (copy / "base/model").symlink_to(ROOT / "base/model")
        shutil.copy(EXAMPLES / f"{example}.py", copy / module)
        diff = ["git", "apply", "--verbose", str(EXAMPLES / f"{example}.diff")]
        # not a repository: git would leave out files that the one above ignores
        environment = os.environ | {"GIT_CEILING_DIRECTORIES": str(tmp_path)}
        done = subprocess.run(diff, cwd=copy, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        settings = yaml.safe_load((copy / "params.yaml").read_text(encoding="utf-8"))
        for section, values in changes.items():
            settings[section] |= values
        (copy / "params.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
        return copy

    return run


def run_stage(copy: Path, *words: str) -> None:
    environment = os.environ | {"PYTHONPATH": str(copy)}
    done = subprocess.run(
        [sys.executable, "-m", *words], cwd=copy, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


@pytest.fixture
def orders(tmp_path: Path) -> Path:
    """A database of sixty generated rows."""
    path = tmp_path / "orders.db"
    rows = offline.rows("orders", 60, 0, FEW, random.Random(1))
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE orders (catalog, message, action, product, quantity, language)")
        database.executemany(
            "INSERT INTO orders VALUES (?, ?, ?, ?, ?, ?)",
            [
                (
                    json.dumps(row.catalog),
                    row.message,
                    row.intent.action,
                    row.intent.product,
                    row.intent.quantity,
                    row.language,
                )
                for row in rows
            ],
        )
    return path


def test_the_data_source_runs_in_the_stage_and_shows_no_row(apply: Apply, orders: Path) -> None:
    sizes = {"train": 30, "validation": 6, "test": 6, "calibration": 9}
    changes = {"data": {"source": "sqlite", "path": str(orders), **sizes}}
    copy = apply("sqlite_source", "cartlm/data/sqlite_source.py", changes)
    (copy / "docs").mkdir()
    run_stage(copy, "stages.data")
    rows = {name: row_files.read(copy / f"data/{name}.jsonl") for name in sizes}
    assert {name: len(part) for name, part in rows.items()} == sizes
    card = (copy / "docs/data.md").read_text(encoding="utf-8")
    assert "sqlite" in card
    assert [row.message for part in rows.values() for row in part if row.message in card] == []


def test_a_broken_row_of_the_data_source_is_named(orders: Path) -> None:
    with sqlite3.connect(orders) as database:
        database.execute("UPDATE orders SET quantity = 'many' WHERE rowid = 7")
    with pytest.raises(UserError, match="row 7"):
        sqlite_source.splits(FEW.model_copy(update={"path": str(orders)}))


def test_the_engine_runs_in_the_stage(apply: Apply) -> None:
    copy = apply("first_line_engine", "cartlm/engines/first_line.py", {"eval": {"natural_rows": 0}})
    (copy / "models/first_line").mkdir(parents=True)
    for file in (ROOT / "base/model").glob("*token*"):  # as the example's stage copies them
        shutil.copy(file, copy / "models/first_line")
    rows = offline.rows("some", 20, 0, FEW, random.Random(2))
    row_files.write(copy / "data/test.jsonl", rows)
    for empty in ("published", "none"):
        (copy / f"data/{empty}.jsonl").touch()
    run_stage(copy, "stages.evaluate", "first_line")
    found = read_metrics(copy / "metrics/eval/first_line.json")
    right = [
        row
        for row in rows
        if (row.intent.action, row.intent.product, row.intent.quantity) == ("add", row.catalog[0], 1)
    ]
    assert found["free"]["exact_match"] == len(right) / len(rows)
    assert found["free"]["unparseable"] == 0
    assert found["engine"]["name"] == "first line"


def test_the_cap_ends_an_answer_of_the_engine() -> None:
    with first_line_engine.load(ROOT / "base/model", threads=1) as engine:
        (row,) = offline.rows("some", 1, 0, FEW, random.Random(2))
        ids = engine.prompt_builder("\n").prompt_ids(row.prompt)
        answer = engine.answer(ids, 96)
        assert json.loads(answer.text) == {"action": "add", "product": row.catalog[0], "quantity": 1}
        assert (answer.finish_reason, answer.prompt_tokens) == ("stop", len(ids))
        cut = engine.answer(ids, 3)
        assert (cut.finish_reason, cut.token_ids) == ("length", answer.token_ids[:3])
        assert engine.answer(ids, len(answer.token_ids)).finish_reason == "length"


def only_block(name: str, language: str) -> str:
    (block,) = Page(name, (ROOT / name).read_text(encoding="utf-8")).blocks(language)
    return block


def test_the_rows_to_train_on_are_sound(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text(only_block("docs/howto/train-on-my-rows.md", "csv"), encoding="utf-8")
    gathered = files.gather(tmp_path, DATA.languages)
    assert gathered.problems == []
    assert [len(row.catalog) for row in gathered.parts["train"]] == [3, 3]


def test_the_logs_to_test_on_are_read_as_they_are_checked(tmp_path: Path) -> None:
    (tmp_path / "logs.jsonl").write_text(only_block("docs/howto/test-my-logs.md", "json"), encoding="utf-8")
    assert files.gather(tmp_path, DATA.languages).problems == []
    (row,) = hub.held_out(DATA.model_copy(update={"held_out": str(tmp_path)}))
    assert row.completion == row.intent.canonical()


def test_the_logs_under_other_names_are_evaluated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fixed_params.write(tmp_path)
    write_baseline(tmp_path / "models/baseline/model.json")
    (tmp_path / "my-logs").mkdir()
    (tmp_path / "my-logs/june.csv").write_text(
        only_block("docs/howto/test-my-logs.md", "csv"), encoding="utf-8"
    )
    (tmp_path / "my-logs/catalog.txt").write_text("Milk 1L\nMilk 2L\nBread\n")
    monkeypatch.chdir(tmp_path)
    page = Page("", (ROOT / "docs/howto/test-my-logs.md").read_text(encoding="utf-8"))
    command = next(line for line in page.commands() if line.startswith("cartlm evaluate my-logs/june.csv"))
    done = CliRunner().invoke(cli.main, [*shlex.split(command)[1:], "--variant", "baseline", "--strict"])
    assert done.exit_code == 0, done.output
    assert "my-logs/june.csv: 2 rows\n" in done.stdout
    assert "Filiale Süd" in done.stdout


def test_git_ignores_the_readers_own_rows() -> None:
    for folder in ("my-rows", "my-logs"):
        command = ["git", "check-ignore", "--quiet", f"{folder}/rows.csv"]
        assert subprocess.run(command, cwd=ROOT).returncode == 0, folder
