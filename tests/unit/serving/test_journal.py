"""What a killed run leaves, and what the next one does with it."""

from __future__ import annotations

from pathlib import Path
from typing import IO, Any

import pytest

from cartlm.errors import UserError
from cartlm.serving import journal
from cartlm.serving.journal import journal_path, open_journal

KEY = {"input": "a", "model": "b"}


def run(
    output: Path, texts: list[str], key: dict[str, Any] = KEY, anew: bool = False
) -> tuple[int, list[Any]]:
    """How many rows were there, and all after adding these."""
    with open_journal(output, key, anew) as opened:
        done = opened.done
        for text in texts:
            opened.add({"id": text})
        return done, [line["id"] for line in opened.lines()]


def test_lines_stay_between_runs_in_their_order(tmp_path: Path) -> None:
    output = tmp_path / "new folder/answers.csv"
    assert run(output, ["a", "č"]) == (0, ["a", "č"])
    assert run(output, ["c"]) == (2, ["a", "č", "c"])
    assert run(output, ["d"], anew=True) == (3, ["a", "č", "c", "d"])
    assert run(output, ["e"], KEY | {"model": "c"}, anew=True) == (0, ["e"])


@pytest.mark.parametrize(
    ("tail", "kept"),
    [
        (b'{"row": 3, "id": "c"', 2),
        (b'{"row": 3, "id": "c"}', 2),
        (b"\x00\x00\x00\n", 2),
        (b'{"row": 5, "id": "e"}\n', 2),
        (b'"text"\n{"row": 3}\n', 2),
        (b'{"row": 3, "id": "c"}\n{"ro', 3),
    ],
)
def test_what_a_kill_cut_is_cut_off_and_asked_again(tmp_path: Path, tail: bytes, kept: int) -> None:
    output = tmp_path / "answers.csv"
    run(output, ["a", "b"])
    with journal_path(output).open("ab") as file:
        file.write(tail)
    assert run(output, ["new"]) == (kept, [*["a", "b", "c"][:kept], "new"])


@pytest.mark.parametrize("data", [b"", b'{"key": {"inp', b"1\n", b'{"key": 1}\n'])
def test_a_journal_without_a_whole_header_begins_again(tmp_path: Path, data: bytes) -> None:
    output = tmp_path / "answers.csv"
    journal_path(output).write_bytes(data)
    assert run(output, ["a"]) == (0, ["a"])
    assert run(output, []) == (1, ["a"])


def test_another_input_or_model_is_noticed_and_nothing_is_lost(tmp_path: Path) -> None:
    output = tmp_path / "answers.csv"
    run(output, ["a"])
    with pytest.raises(UserError, match=r"another model; .*--anew"):
        run(output, ["b"], {"input": "a", "model": "c"})
    assert run(output, []) == (1, ["a"])


def test_a_run_without_a_row_blocks_no_other(tmp_path: Path) -> None:
    output = tmp_path / "answers.csv"
    with pytest.raises(ValueError, match="no model"), open_journal(output, KEY, False):
        raise ValueError("no model")
    assert not journal_path(output).exists()
    run(output, [])  # as after a kill
    assert run(output, ["a"], KEY | {"model": "c"}) == (0, ["a"])


def test_answers_never_go_to_a_file_that_another_run_removes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other fails, or ends, between the moment this one opens the journal and the moment it locks it."""
    output, hold, others = tmp_path / "answers.csv", journal.hold, ["removed", "removed and begun anew"]

    def held(file: IO[Any], name: Path) -> bool:
        if others:
            journal_path(output).unlink()
            if others.pop().endswith("anew"):
                run(output, ["a"])
        return hold(file, name)

    monkeypatch.setattr(journal, "hold", held)
    assert run(output, ["b"]) == (1, ["a", "b"])
    assert run(output, []) == (2, ["a", "b"])


def test_two_runs_at_once_are_refused(tmp_path: Path) -> None:
    output = tmp_path / "answers.csv"
    with open_journal(output, KEY, False), pytest.raises(UserError, match="another process"):
        run(output, ["a"])
    assert run(output, ["a"]) == (0, ["a"])
