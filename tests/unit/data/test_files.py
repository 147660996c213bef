"""The user's own rows: both layouts, JSONL and CSV, and every planted fault with its line."""

from __future__ import annotations

import csv
import re
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from cartlm.data import files, gates
from cartlm.data.tables import OURS
from cartlm.errors import UserError
from cartlm.task.rows import Row
from tests.fixtures.toy import toy_rows
from tests.unit.data.own_rows import LANGUAGES, PLANTED, folder, record, settings, write


def inspect(path: Path) -> tuple[list[Row], list[tuple[int, str]]]:
    """The sound rows of one file, and (line, problem) of the others."""
    gathered = files.gather(path, LANGUAGES)
    problems = [problem.removeprefix(f"{path}:").split(": ", 1) for problem in gathered.problems]
    return gathered.files[path], [(int(line), what) for line, what in problems]


def test_every_planted_fault_is_named_with_its_line(tmp_path: Path) -> None:
    """One broken row after each sound one; more than the fifteen faults that were asked for."""
    lines: list[dict[str, Any] | bytes | str] = []
    for number, (fault, _) in enumerate(PLANTED, 1):
        lines += [record(number), fault]
    twice = len(lines) + 1
    lines += [record(1), record(2, quantity=47)]
    path = write(tmp_path / "rows.jsonl", lines)
    rows, problems = inspect(path)
    assert len(rows) == len(PLANTED) + 2
    assert [line for line, _ in problems] == [*range(2, 2 * len(PLANTED) + 1, 2), twice, twice + 1]
    for (_, problem), (_, words) in zip(problems, PLANTED, strict=False):
        assert words in problem
    assert problems[-2][1] == f"the same catalog and message as {path}:1"
    assert problems[-1][1] == f"the same catalog and message as {path}:3, with another label"


def write_csv(path: Path, rows: Sequence[dict[str, Any]], join: str = "\n") -> Path:
    with path.open("w", encoding="utf-8-sig", newline="") as file:  # as spreadsheets write it
        writer = csv.DictWriter(file, [*OURS, "note"], restval="")
        writer.writeheader()
        writer.writerows({**row, "catalog": join.join(row["catalog"])} for row in rows)
    return path


@pytest.mark.parametrize("join", ["\n", " | "])
def test_csv_gives_the_same_rows_as_jsonl(tmp_path: Path, join: str) -> None:
    given = [record(i) for i in range(12)]
    rows, problems = inspect(write_csv(tmp_path / "rows.csv", given, join))
    assert problems == []
    assert [(row.prompt, row.completion) for row in rows] == [
        (row.prompt, row.completion) for row in toy_rows(12)
    ]
    assert [(r.prompt, r.completion, r.language) for r in rows] == [
        (r.prompt, r.completion, r.language) for r in inspect(write(tmp_path / "rows.jsonl", given))[0]
    ]


def test_faults_of_a_csv_have_the_line_where_the_row_begins(tmp_path: Path) -> None:
    lines = len(record()["catalog"])
    path = write_csv(tmp_path / "rows.csv", [record(0), record(1, quantity="x"), record(2)])
    _, problems = inspect(path)
    assert [(line, what[:15]) for line, what in problems] == [(2 + lines, "quantity is 'x'")]
    text = path.read_text(encoding="utf-8-sig") + "one,two\r\n" + 'a,"open'
    path.write_text(text, encoding="utf-8")
    _, problems = inspect(path)
    assert "2 cells, where the header has 7" in problems[-2][1]
    assert "not CSV" in problems[-1][1]


def test_splits_of_a_file_and_of_a_folder(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", [record(i) for i in range(60)])
    made = files.splits(settings(path)).splits
    assert {name: len(rows) for name, rows in made.items()} == {
        "train": 40, "validation": 8, "test": 8, "calibration": 9
    }  # fmt: skip
    assert made == files.splits(settings(path)).splits
    assert made["test"] == made["validation"]
    assert gates.check(made, settings(path))["train"]["n"] == 40
    folder = tmp_path / "rows"
    folder.mkdir()
    write(folder / "mine.jsonl", [record(i) for i in range(48)])
    write_csv(folder / "test.csv", [record(i) for i in range(48, 55)])
    made = files.splits(settings(folder)).splits
    assert {row.id.split("-")[0] for row in made["test"]} == {"test.csv"}
    assert len(made["test"]) == 7


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("none.jsonl", "does not exist"),
        ("rows.txt", "is neither .jsonl nor "),
        ("empty", "holds no .jsonl or "),
        (
            "short.jsonl",
            "has 5 usable rows for training, 5 of them unlike all others: data.train=40, .* do not fit",
        ),
        ("broken.jsonl", r"broken.jsonl:2: action is 'buy'.* \(and 1 more problems\).*cartlm data check"),
    ],
)
def test_what_cannot_be_used_is_one_line(tmp_path: Path, name: str, words: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "rows.txt").touch()
    write(tmp_path / "short.jsonl", [record(i) for i in range(5)])
    write(tmp_path / "broken.jsonl", [record(0), record(1, action="buy"), record(2, quantity=0)])
    with pytest.raises(UserError) as caught:
        files.splits(settings(tmp_path / name))
    assert re.search(words, str(caught.value) + "; " + caught.value.hint)


def test_roles_by_name_are_told_and_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The issue's own folder: what is named for validation and test is neither trained on nor cut."""
    path = folder(
        tmp_path / "rows", train=[record(i) for i in range(45)], val=[record(i) for i in range(45, 51)]
    )
    write(path / "Test.jsonl", [record(i) for i in range(51, 55)])
    (path / "notes.txt").touch()
    (path / "._train.jsonl").write_bytes(b"\x00\x05")
    made = files.splits(settings(path)).splits
    assert {name: {row.id.split("-")[0] for row in rows} for name, rows in made.items()} == {
        "train": {"train.jsonl"}, "validation": {"val.jsonl"}, "test": {"Test.jsonl"}, "calibration": {"train.jsonl"}
    }  # fmt: skip
    assert {name: len(rows) for name, rows in made.items()} == {
        "train": 40,
        "validation": 6,
        "test": 4,
        "calibration": 9,
    }
    gates.check(made, settings(path))
    told = capsys.readouterr().err.splitlines()
    assert told == ["Test.jsonl: test", "train.jsonl: train", "val.jsonl: validation", "left out: notes.txt"]


def test_a_file_named_by_itself_has_no_role(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path / "my-test.jsonl", [record(i) for i in range(50)])
    assert len(files.splits(settings(path)).splits["train"]) == 40
    assert "my-test.jsonl: all splits" in capsys.readouterr().err


def nfd(text: str) -> str:
    return unicodedata.normalize("NFD", text)


SAME = [
    record(27),
    record(27, message=nfd(record(27)["message"])),
    record(27, message=record(27)["message"].replace(" ", "\u00a0")),
]


@pytest.mark.parametrize("again", SAME)
@pytest.mark.parametrize(("first", "second"), [("train", "more"), ("test", "eval"), ("val", "dev")])
def test_a_row_that_repeats_within_a_role_is_named_with_both_places(
    tmp_path: Path, first: str, second: str, again: dict[str, Any]
) -> None:
    path = folder(
        tmp_path / "rows", **{first: [record(2), record(27)], second: [record(1), record(5), again]}
    )
    one, other = sorted([f"{path}/{first}.jsonl:2", f"{path}/{second}.jsonl:3"])
    assert files.gather(path, LANGUAGES).problems == [f"{other}: the same catalog and message as {one}"]


@pytest.mark.parametrize(
    ("again", "change"),
    list(zip(SAME, [{"quantity": 47}, {"action": "remove"}, {"language": "spanish"}], strict=True)),
)
@pytest.mark.parametrize(
    ("first", "second"),
    [("a", "b"), ("test", "train"), ("validation", "train"), ("test", "val"), ("test", "eval")],
)
def test_a_contradiction_across_files_is_named_with_both_places(
    tmp_path: Path, first: str, second: str, again: dict[str, Any], change: dict[str, Any]
) -> None:
    again = {**again, "action": "add", **change}
    start = {**record(27), "action": "add", "language": "english"}
    path = folder(
        tmp_path / "rows", **{first: [start], second: [record(1), {"language": "english", **again}]}
    )
    (problem,) = files.gather(path, LANGUAGES).problems
    assert problem.endswith(", with another label")
    assert f"{path}/{first}.jsonl:1" in problem
    assert f"{path}/{second}.jsonl:2" in problem
    with pytest.raises(UserError, match="with another label"):
        files.splits(settings(path))


@pytest.mark.parametrize("again", SAME)
@pytest.mark.parametrize("held", ["test", "val"])
def test_a_row_held_out_is_left_out_of_training_and_told(
    tmp_path: Path, held: str, again: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    path = folder(
        tmp_path / "rows", train=[*(record(i) for i in range(52) if i != 27), again], **{held: [record(27)]}
    )
    found = files.gather(path, LANGUAGES)
    assert (len(found.problems), len(found.held_out)) == (0, 1)
    assert found.held_out[0].startswith(f"{path}/train.jsonl:52: ")
    assert f"{path}/{held}.jsonl:1" in found.held_out[0]
    drawn = files.splits(settings(path))
    assert drawn.leaked == 1
    assert "train.jsonl-00052" not in {row.id for part in drawn.splits.values() for row in part}
    assert f"train.jsonl-00052 is like {held}.jsonl-00001" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("held", "words"),
    [
        (["test"], "only for test"),
        (["dev"], "only for validation"),
        (["train_test"], "train_test.jsonl is named for"),
    ],
)
def test_what_is_no_training_set_is_one_line(tmp_path: Path, held: list[str], words: str) -> None:
    path = folder(tmp_path / "rows", **{name: [record(i) for i in range(9)] for name in held})
    with pytest.raises(UserError, match=words):
        files.splits(settings(path))


@pytest.mark.parametrize("suffix", ["jsonl", "csv"])
def test_a_bar_in_a_product_shows_how_the_files_catalogs_are_cut(tmp_path: Path, suffix: str) -> None:
    rows = [
        record(0, catalog=["Tea | Green"], product="Tea | Green"),
        record(1, catalog=["Tea | Green", "Milk"], product="Milk"),
    ]
    if suffix == "csv":
        path = write_csv(tmp_path / "rows.csv", rows, " | ")
    else:
        path = write(
            tmp_path / "rows.jsonl", [{**row, "catalog": " | ".join(row["catalog"])} for row in rows]
        )
    made, problems = inspect(path)
    assert [row.catalog for row in made] == [["Tea | Green"]]
    assert len(problems) == 1
    assert "holds ' | '" in problems[0][1]


def test_a_file_that_cannot_be_read_hides_no_other(tmp_path: Path) -> None:
    path = folder(tmp_path / "rows", train=[record(0), record(1, action="buy")])
    (path / "gone.jsonl").symlink_to(tmp_path / "nowhere.jsonl")
    problems = files.gather(path, LANGUAGES).problems
    assert [("gone.jsonl" in problem, "train.jsonl:2" in problem) for problem in problems] == [
        (True, False),
        (False, True),
    ]


def test_source_file_needs_a_path() -> None:
    with pytest.raises(UserError, match=r"data.source=file needs data.path"):
        files.splits(settings(Path("x")).model_copy(update={"path": None}))


def test_a_name_with_a_bar_in_one_file_holds_in_another(tmp_path: Path) -> None:
    path = folder(
        tmp_path / "rows", a=[record(0, catalog="Milk | 1L | Bread", product="Bread")],
        b=[record(1, catalog=["Milk | 1L", "Bread"], product="Milk | 1L")],
    )  # fmt: skip
    found = files.gather(path, LANGUAGES)
    assert len(found.problems) == 1
    assert "a.jsonl:1" in found.problems[0]


def test_a_name_that_looks_like_a_test_and_is_trained_on_is_warned_of(tmp_path: Path) -> None:
    path = folder(tmp_path / "rows", mytest=[record(0)], latest_prices=[record(1)], train=[record(2)])
    warning = [note for note in files.gather(path, LANGUAGES).notes if note.startswith("warning")]
    assert len(warning) == 1
    assert "mytest.jsonl" in warning[0]
    assert "latest" not in warning[0]
