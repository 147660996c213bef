"""cartlm predict --input: every format in and out, broken rows, kills, and what changed between two runs."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from tests import ROOT
from tests.component.serving.conftest import Predict, failed
from tests.fixtures.baseline import write_baseline
from tests.fixtures.toy import TRAINED, toy_rows

LEARNED = toy_rows()[:TRAINED]
NAMES = ["id", "action", "product", "quantity", "confidence", "latency_ms"]


def jsonl(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def learned(path: Path, count: int = TRAINED) -> Path:
    """Rows under foreign names; they repeat after the toy's own."""
    rows = [LEARNED[number % TRAINED] for number in range(count)]
    return jsonl(
        path,
        [
            {"ticket": f"t{number}", "text": row.message, "menu": row.catalog}
            for number, row in enumerate(rows, 1)
        ],
    )


FOREIGN = ("--columns", "message=text,catalog=menu,id=ticket")


def read(path: Path) -> list[dict[str, Any]]:
    """The rows of an output, their values as JSON has them."""
    if path.suffix == ".parquet":
        return list(parquet.read_table(path).to_pylist())
    with path.open(encoding="utf-8", newline="") as file:
        if path.suffix == ".csv":
            rows: list[dict[str, Any]] = list(csv.DictReader(file))
            for row in rows:
                numbers = {name: float(row[name]) for name in ("confidence", "latency_ms") if row[name]}
                row |= {"confidence": None, **numbers, "quantity": int(row["quantity"])}
            return rows
        return [json.loads(line) for line in file]


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".parquet"])
def test_each_row_gets_its_answer_under_its_id(predict: Predict, repo: Path, suffix: str) -> None:
    output = repo / f"out/answers{suffix}"
    done = predict("--input", learned(repo / "rows.jsonl"), "--output", output, *FOREIGN)
    assert done.exit_code == 0, done.output
    assert f"{TRAINED} answers in " in done.stdout
    assert len(done.stdout.splitlines()) == 1
    assert "message" in done.stderr  # the rate
    rows = read(output)
    assert list(rows[0]) == NAMES
    wanted = [
        (f"t{n}", row.intent.action, row.intent.product, row.intent.quantity)
        for n, row in enumerate(LEARNED, 1)
    ]
    assert [tuple(row[name] for name in NAMES[:4]) for row in rows] == wanted
    assert all(0.5 < row["confidence"] <= 1 and row["latency_ms"] > 0 for row in rows)
    assert sorted(path.name for path in output.parent.iterdir()) == [output.name, f"{output.name}.run.json"]


def test_csv_and_parquet_in_one_catalog_for_all_and_numbers_as_ids(predict: Predict, repo: Path) -> None:
    write_baseline(repo / "models/baseline/model.json")
    (repo / "catalog.txt").write_text("Tea\nOat Milk 1 l\n", encoding="utf-8")
    messages = ["add two tea", "remove oat milk 1 l", "add 3 tea"]
    (repo / "rows.csv").write_text(
        "text;note\n" + "".join(f"{text};x\n" for text in messages), encoding="utf-8"
    )
    parquet.write_table(pa.table({"text": messages}), repo / "rows.parquet")
    for name in ("rows.csv", "rows.parquet"):
        options = ("--catalog", "catalog.txt", "--variant", "baseline", "--columns", "message=text")
        output = repo / f"{name}.parquet"
        done = predict("--input", name, "--output", output, *options)
        assert done.exit_code == 0, done.output
        found = [(row["id"], row["product"], row["quantity"], row["confidence"]) for row in read(output)]
        assert found == [(1, "Tea", 2, None), (2, "Oat Milk 1 l", 1, None), (3, "Tea", 3, None)]


def test_rows_without_an_answer_go_aside_with_line_and_reason(predict: Predict, repo: Path) -> None:
    row = LEARNED[0]
    sound = json.dumps({"id": "a", "message": row.message, "catalog": row.catalog})
    broken = [
        (json.dumps({"id": "b", "message": " ", "catalog": row.catalog}), "b", "blank"),
        (json.dumps({"id": "c", "message": "tea"}), "c", "catalog"),
        (json.dumps({"id": "d", "message": "tea " * 900, "catalog": row.catalog}), "d", "640 are allowed"),
        (json.dumps({"id": "e", "message": "tea", "catalog": ["Tea", "Tea"]}), "e", "twice"),
        ('{"id": "f"', 6, "not JSON"),
        (json.dumps({"id": "g", "message": "x\x00", "catalog": row.catalog}), "g", "U+0000"),
    ]
    data = "\n".join([sound, *(line for line, *_ in broken), sound]).encode()
    (repo / "rows.jsonl").write_bytes(data + b'\n{"id": "h", "message": "caf\xe9"}\n')
    done = predict("--input", "rows.jsonl", "--output", "answers.csv")
    assert done.exit_code == 0, done.output
    assert "2 answers in answers.csv, 7 rows without one in answers.csv.rejected.jsonl" in done.stdout
    assert [each["id"] for each in read(repo / "answers.csv")] == ["a", "a"]
    rejected = read(repo / "answers.csv.rejected.jsonl")
    assert [(each["line"], each["id"]) for each in rejected] == [
        *((line, id) for line, (_, id, _) in enumerate(broken, 2)),
        (9, 9),
    ]
    for each, (_, _, word) in zip(rejected, broken, strict=False):
        assert word in each["reason"]
    assert "UTF-8" in rejected[-1]["reason"]


def test_a_free_answer_that_is_none_goes_aside_with_its_text(predict: Predict, repo: Path) -> None:
    others = [
        {"message": row.message, "catalog": [line for line in row.catalog if line != row.intent.product]}
        for row in LEARNED
    ]
    jsonl(repo / "rows.jsonl", others)
    done = predict("--input", "rows.jsonl", "--output", "answers.jsonl", "--decoding", "free")
    assert done.exit_code == 0, done.output
    rejected, answered = read(repo / "answers.jsonl.rejected.jsonl"), read(repo / "answers.jsonl")
    assert len(rejected) + len(answered) == TRAINED
    assert any("answer" in each for each in rejected)
    assert all(each["confidence"] is None for each in answered)


def start(repo: Path, *arguments: str) -> subprocess.Popen[bytes]:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "cartlm.cli", "predict", *arguments]
    return subprocess.Popen(
        command, cwd=repo, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )


@pytest.mark.slow
def test_a_killed_run_goes_on_without_a_row_twice_or_lost(predict: Predict, repo: Path) -> None:
    count = 250
    learned(repo / "rows.jsonl", count)
    part = repo / "answers.parquet.part.jsonl"
    arguments = ("--input", "rows.jsonl", "--output", "answers.parquet", *FOREIGN)
    process = start(repo, *arguments)
    try:
        while not part.exists() or part.read_bytes().count(b"\n") < 40:
            assert process.poll() is None
            time.sleep(0.005)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    done_before = part.read_bytes().count(b"\n") - 1
    assert 39 <= done_before < count
    assert not (repo / "answers.parquet").exists()
    with part.open("ab") as file:
        file.write(b'{"row": 9')  # as where a kill comes in the middle of a write
    done = predict(*arguments)
    assert done.exit_code == 0, done.output
    assert f"{done_before} of {count} rows are done already" in done.stderr
    assert [row["id"] for row in read(repo / "answers.parquet")] == [
        f"t{number}" for number in range(1, count + 1)
    ]
    wanted = [LEARNED[number % TRAINED].intent.canonical() for number in range(count)]
    assert [
        json.dumps({name: row[name] for name in NAMES[1:4]}, ensure_ascii=False)
        for row in read(repo / "answers.parquet")
    ] == wanted
    assert not part.exists()


def test_a_kill_while_the_output_is_written_changes_nothing(
    predict: Predict, repo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All rows are done, the output is in place, and the rest was not."""
    arguments = ("--input", learned(repo / "rows.jsonl"), "--output", "answers.csv", *FOREIGN)
    real = Path.unlink

    def killed(path: Path, missing_ok: bool = False) -> None:
        if path.name == "answers.csv.part.jsonl":
            raise KeyboardInterrupt
        real(path, missing_ok)

    monkeypatch.setattr(Path, "unlink", killed)
    failed_run = predict(*arguments)
    assert failed_run.exit_code == 2
    assert "interrupted" in failed_run.stderr
    monkeypatch.setattr(Path, "unlink", real)
    before = (repo / "answers.csv").read_bytes()
    done = predict(*arguments)
    assert (done.exit_code, (repo / "answers.csv").read_bytes()) == (0, before)
    assert not (repo / "answers.csv.part.jsonl").exists()


def test_a_finished_run_is_not_repeated_and_another_one_is_noticed(predict: Predict, repo: Path) -> None:
    write_baseline(repo / "models/baseline/model.json")
    path, output = learned(repo / "rows.jsonl", 6), repo / "answers.csv"
    arguments = ("--input", path, "--output", output, *FOREIGN, "--variant", "baseline")
    assert predict(*arguments).exit_code == 0
    before = (output.read_bytes(), output.stat().st_mtime_ns)
    again = predict(*arguments)
    assert (again.exit_code, "6 answers already" in again.stdout) == (0, True)
    assert (output.read_bytes(), output.stat().st_mtime_ns) == before
    failed(predict(*arguments[:-1], "f16"), "answers.csv was made with another model, engine", "--anew")
    failed(predict(*arguments, "--decoding", "free"), "another decoding")
    failed(predict(*arguments, "--max-tokens", "99"), "another settings")
    learned(path, 7)
    failed(predict(*arguments), "another input", "--anew")
    assert (output.read_bytes(), output.stat().st_mtime_ns) == before
    done = predict(*arguments, "--anew")
    assert (done.exit_code, len(read(output))) == (0, 7), done.output
    (repo / "theirs.csv").write_text("by hand", encoding="utf-8")
    failed(predict(*arguments[:2], "--output", "theirs.csv", *arguments[4:]), "theirs.csv exists already")
    assert (repo / "theirs.csv").read_text(encoding="utf-8") == "by hand"


def test_a_refused_command_does_not_block_the_corrected_one(predict: Predict, repo: Path) -> None:
    write_baseline(repo / "models/baseline/model.json")
    arguments = ("--input", learned(repo / "rows.jsonl", 6), "--output", "answers.csv", *FOREIGN)
    failed(predict(*arguments, "--decoding", "ensemble"), "no margin")
    assert not (repo / "answers.csv.part.jsonl").exists()
    assert predict(*arguments).exit_code == 0


@pytest.mark.parametrize(("way", "said"), [("constrained", False), ("free", None), ("baseline", None)])
def test_a_confidence_that_is_not_calibrated_is_named(
    predict: Predict, repo: Path, way: str, said: bool | None
) -> None:
    write_baseline(repo / "models/baseline/model.json")
    options = ("--variant", way) if way == "baseline" else ("--decoding", way)
    source = learned(repo / "rows.jsonl", 6)
    done = predict("--input", source, "--output", "answers.csv", *FOREIGN, *options)
    assert ("answers.csv: confidence is the model's own probability" in done.stderr) == (said is False)
    assert json.loads((repo / "answers.csv.run.json").read_text())["calibrated"] is said


def test_another_baseline_makes_another_run_but_with_free_decoding(predict: Predict, repo: Path) -> None:
    """Confidence, and the ensemble's answers, depend on it."""
    baseline = repo / "models/baseline/model.json"
    write_baseline(baseline)
    source = learned(repo / "asked.jsonl")
    for way, same in (("constrained", False), ("free", True)):
        options = ("--input", source, *FOREIGN, "--output", f"{way}.jsonl", "--decoding", way)
        assert predict(*options).exit_code == 0
        baseline.write_text(baseline.read_text().replace('"threshold": 1.0', '"threshold": 2.0'))
        assert (predict(*options).exit_code == 0) == same
        baseline.unlink()
        assert (predict(*options).exit_code == 0) == same
        write_baseline(baseline)


def test_a_begun_run_of_another_input_is_kept(predict: Predict, repo: Path) -> None:
    write_baseline(repo / "models/baseline/model.json")
    part = repo / "answers.csv.part.jsonl"
    part.write_text('{"key": {"input": "other"}}\n{"row": 1}\n', encoding="utf-8")
    learned(repo / "rows.jsonl", 6)
    arguments = ("--input", "rows.jsonl", "--output", "answers.csv", *FOREIGN, "--variant", "baseline")
    failed(predict(*arguments), "answers.csv was made with another input", "--anew")
    assert part.read_text(encoding="utf-8").endswith('{"row": 1}\n')
    assert predict(*arguments, "--anew").exit_code == 0


def test_an_unusable_input_is_one_line_before_a_model_is_loaded(predict: Predict, repo: Path) -> None:
    (repo / "models/q4_k_m/model.gguf").unlink()
    (repo / "models/q4_k_m/model.gguf").write_bytes(b"GGUF")
    (repo / "rows.csv").write_text("text,menu\ntea,Tea\n", encoding="utf-8")
    failed(
        predict("--input", "rows.csv", "--output", "answers.csv"), "no column 'message'; it has: text, menu"
    )
    failed(predict("--input", "rows.csv", "--output", "answers.xlsx"), "answers.xlsx is neither")
    failed(predict("--input", "rows.csv", "--output", "rows.csv"), "both --output and --input")
    (repo / "chats").mkdir()
    failed(predict("--input", "chats", "--output", "answers"), "chats is a folder; --ray reads folders")
    failed(predict("--input", "none.csv", "--output", "answers.csv"), "none.csv: No such file")
    failed(predict("--input", "rows.csv", "--output", "answers.csv", "--columns", "text"), "--columns 'text'")
    assert not (repo / "answers.csv.part.jsonl").exists()
