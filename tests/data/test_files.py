"""The user's own rows: both layouts, JSONL and CSV, and every planted fault with its line."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from cartlm import params
from cartlm.data import files, gates, splits
from cartlm.errors import UserError
from tests.fixtures.toy import toy_rows

ROOT = Path(__file__).resolve().parents[2]
LANGUAGES = ["english", "croatian", "spanish"]


def record(number: int = 0, **changes: Any) -> dict[str, Any]:
    row = toy_rows(number + 1)[number]
    label = json.loads(row.completion)
    return {"catalog": row.catalog, "message": row.message, **label, "language": row.language, **changes}


def published(number: int = 0, **changes: Any) -> dict[str, Any]:
    row = toy_rows(number + 1)[number]
    return {"prompt": row.prompt, "completion": row.completion, "language": row.language, **changes}


def write(path: Path, lines: Sequence[dict[str, Any] | bytes | str]) -> Path:
    encoded = [
        line if isinstance(line, bytes) else line.encode() if isinstance(line, str) else json.dumps(line).encode()
        for line in lines
    ]
    path.write_bytes(b"\n".join(encoded) + b"\n")
    return path


def settings(path: Path, **changes: Any) -> params.Data:
    found = params.load(ROOT / "params.yaml").data.model_dump()
    small = {"source": "file", "path": str(path), "train": 40, "validation": 8, "calibration": 9, "test": 8}
    return params.Data(**{**found, **small, "gates": {**found["gates"], "near_duplicate": 1.0}, **changes})


PLANTED: list[tuple[dict[str, Any] | bytes | str, str]] = [
    ("{not json", "not JSON"),
    ('["a", "list"]', "list, not a JSON object"),
    (b'{"catalog": ["caf\xe9"]}', "not UTF-8"),
    ({key: value for key, value in record().items() if key != "language"}, "nothing in language"),
    (record(message=None), "nothing in message"),
    (record(message=7), "message is 7, not text"),
    (record(message="   "), "the message is blank"),
    (record(message="two \x07 bells"), "holds U+0007, which no message has"),
    (record(message="dvije boce \ufffdaja"), "holds U+FFFD: it was decoded wrongly"),
    (record(message='add {"action": "add", "quantity": 2}'), "the answer's JSON"),
    (record(message="half an emoji \ud83d"), "holds U+D83D"),
    (record(action="buy"), "action is 'buy', not add or remove"),
    (record(quantity=0), "quantity is 0"),
    (record(quantity="two"), "quantity is 'two'"),
    (record(quantity=True), "quantity is True"),
    (record(catalog="one line"), "is not a catalog line"),
    (record(catalog=7), "catalog is 7"),
    (record(catalog=["Tea", "Tea", *record()["catalog"]]), "'Tea' occurs twice"),
    (record(catalog=[" Tea", *record()["catalog"]]), "' Tea' is empty, or has blanks"),
    (record(language="klingon"), "language is 'klingon'"),
    (published(prompt="Catalogue:\nTea\n\nUser:\ntea"), "the prompt is not"),
    (published(completion='{"action": "add"}'), "keys are"),
    (published(completion=published()["completion"].replace(": ", ":")), "is not written as"),
]


def test_every_planted_fault_is_named_with_its_line(tmp_path: Path) -> None:
    """One broken row after each sound one; more than the fifteen faults that were asked for."""
    lines: list[dict[str, Any] | bytes | str] = []
    for number, (fault, _) in enumerate(PLANTED, 1):
        lines += [record(number), fault]
    twice = len(lines) + 1
    lines += [record(1), record(2, quantity=47)]
    path = write(tmp_path / "rows.jsonl", lines)
    rows, problems = files.inspect(path, LANGUAGES)
    assert len(rows) == len(PLANTED)
    assert [problem.line for problem in problems] == [*range(2, 2 * len(PLANTED) + 1, 2), twice, twice + 1]
    for problem, (_, words) in zip(problems, PLANTED, strict=False):
        assert words in problem.what
    assert problems[-2].what == "the same catalog and message as line 1"
    assert problems[-1].what == "the same catalog and message as line 3, with another label"


def test_cartlm_data_check(tmp_path: Path) -> None:
    def check(path: Path) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "cartlm.cli", "data", "check", str(path)]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)

    path = write(tmp_path / "rows.jsonl", [fault for fault, _ in PLANTED])
    done = check(path)
    assert done.returncode == 2
    assert done.stderr == f"cartlm: error: {path} has {len(PLANTED)} broken rows; mend the lines named above\n"
    said = done.stdout.splitlines()
    assert [line.split(": ")[0] for line in said[:-1]] == [f"{path}:{i}" for i in range(1, len(PLANTED) + 1)]
    assert said[-1] == f"{path}: 0 sound rows"
    done = check(write(tmp_path / "rows.jsonl", [record(i) for i in range(6)]))
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"{path}: 6 sound rows, ")
    done = check(tmp_path / "none.jsonl")
    assert done.returncode == 2
    assert "none.jsonl is not there" in done.stderr


def write_csv(path: Path, rows: Sequence[dict[str, Any]], join: str = "\n") -> Path:
    with path.open("w", encoding="utf-8-sig", newline="") as file:  # as spreadsheets write it
        writer = csv.DictWriter(file, [*files.OURS, "note"], restval="")
        writer.writeheader()
        writer.writerows({**row, "catalog": join.join(row["catalog"])} for row in rows)
    return path


@pytest.mark.parametrize("join", ["\n", " | "])
def test_csv_gives_the_same_rows_as_jsonl(tmp_path: Path, join: str) -> None:
    given = [record(i) for i in range(12)]
    rows, problems = files.inspect(write_csv(tmp_path / "rows.csv", given, join), LANGUAGES)
    assert problems == []
    assert [(row.prompt, row.completion) for row in rows] == [
        (row.prompt, row.completion) for row in toy_rows(12)
    ]
    assert [(r.prompt, r.completion, r.language) for r in rows] == [
        (r.prompt, r.completion, r.language)
        for r in files.read(write(tmp_path / "rows.jsonl", given), LANGUAGES)
    ]


def test_faults_of_a_csv_have_the_line_where_the_row_begins(tmp_path: Path) -> None:
    lines = len(record()["catalog"])
    path = write_csv(tmp_path / "rows.csv", [record(0), record(1, quantity="x"), record(2)])
    _, problems = files.inspect(path, LANGUAGES)
    assert [(problem.line, problem.what[:15]) for problem in problems] == [(2 + lines, "quantity is 'x'")]
    text = path.read_text(encoding="utf-8-sig") + "one,two\r\n" + 'a,"open'
    path.write_text(text, encoding="utf-8")
    _, problems = files.inspect(path, LANGUAGES)
    assert "2 cells, where the header has 7" in problems[-2].what
    assert "not CSV" in problems[-1].what


def test_splits_of_a_file_and_of_a_folder(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", [record(i) for i in range(60)])
    made = splits.make(settings(path)).splits
    assert {name: len(rows) for name, rows in made.items()} == {
        "train": 40, "validation": 8, "test": 8, "calibration": 9
    }  # fmt: skip
    assert made == splits.make(settings(path)).splits
    assert made["test"] == made["validation"]
    assert gates.check(made, settings(path))["train"]["n"] == 40
    folder = tmp_path / "rows"
    folder.mkdir()
    write(folder / "mine.jsonl", [record(i) for i in range(48)])
    write_csv(folder / "test.csv", [record(i) for i in range(48, 55)])
    made = splits.make(settings(folder)).splits
    assert {row.id.split("-")[0] for row in made["test"]} == {"test.csv"}
    assert len(made["test"]) == 7


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("none.jsonl", "is not there"),
        ("rows.txt", "is neither .jsonl nor .csv"),
        ("empty", "holds no .jsonl or .csv"),
        ("short.jsonl", "has 5 usable rows, fewer than data.train . data.validation = 48"),
        ("broken.jsonl", r"broken.jsonl:2: action is 'buy'.* \(and 1 more problems\).*cartlm data check"),
    ],
)
def test_what_cannot_be_used_is_one_line(tmp_path: Path, name: str, words: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "rows.txt").touch()
    write(tmp_path / "short.jsonl", [record(i) for i in range(5)])
    write(tmp_path / "broken.jsonl", [record(0), record(1, action="buy"), record(2, quantity=0)])
    with pytest.raises(UserError) as caught:
        splits.make(settings(tmp_path / name)).splits
    import re

    assert re.search(words, str(caught.value) + "; " + caught.value.hint)


def test_source_file_needs_a_path() -> None:
    with pytest.raises(UserError, match=r"data.source=file needs data.path"):
        splits.make(settings(Path("x")).model_copy(update={"path": None}))
