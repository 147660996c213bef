"""Catalogs of a user's own, and an intent with the catalog's own bytes."""

from __future__ import annotations

from pathlib import Path

import pytest

from cartlm.engines.answer import Answer, FinishReason
from cartlm.errors import UserError
from cartlm.serving.predict import Reader, Unreadable, read_catalog
from cartlm.task.prompt import PromptBuilder


class Engine:
    """Answers everything with one text."""

    def __init__(self, text: str, reason: FinishReason = "stop") -> None:
        self.text, self.reason = text, reason

    def prompt_builder(self, separator: str) -> PromptBuilder:
        return PromptBuilder(lambda text: [ord(char) + 3 for char in text], 1, 2, separator)

    def answer(self, ids: list[int], most: int) -> Answer:
        return Answer(self.text, (), self.reason, len(ids), 9, 0, 0.0, 0.0)


def test_the_intent_has_the_catalogs_own_bytes() -> None:
    """The catalog is in NFD, the model's answer in NFC."""
    engine = Engine('{"action": "add", "product": "Café", "quantity": 2}')
    assert Reader(engine, "\n", 96).predict(["Cafe\u0301", "Tea"], "two").product == "Cafe\u0301"


@pytest.mark.parametrize(
    ("engine", "word"),
    [
        (Engine("{", "length"), "96 tokens"),
        (Engine("Sure!"), "no intent"),
        (Engine('{"action": "add", "product": "Beer", "quantity": 2}'), "Beer"),
    ],
)
def test_an_unusable_answer_is_shown(engine: Engine, word: str) -> None:
    with pytest.raises(Unreadable, match=word) as caught:
        Reader(engine, "\n", 96).predict(["Tea"], "two teas")
    assert caught.value.answer == engine.text


@pytest.mark.parametrize("separator", ["\u2028", "\u2029"])
def test_a_unicode_line_separator_stays_in_its_product(tmp_path: Path, separator: str) -> None:
    path = tmp_path / "catalog.txt"
    path.write_bytes(f"Oat{separator}Milk\nTea\n".encode())
    assert read_catalog(path) == [f"Oat{separator}Milk", "Tea"]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_catalog_is_read_in_the_encodings_of_rows(tmp_path: Path, encoding: str) -> None:
    lines = ["Šampon za kosu", "Čarape (par)", "Žarulja LED 9W", "Slatki džem"]
    (tmp_path / "catalog.txt").write_bytes("\r\n".join(lines).encode(encoding))
    assert read_catalog(tmp_path / "catalog.txt") == lines


@pytest.mark.parametrize(
    ("data", "word"),
    [
        (None, "No such file"),
        (b"", "no product"),
        (b" \n\n", "no product"),
        (b"Tea\nTea\n", "'Tea' occurs twice"),
        ("Café\nCafe\u0301\n".encode(), "twice"),
        (b"Te\x00a\n", r"U\+0000"),
        (b"Te\x0ba\n", r"U\+000B"),
        ("Čaj\n".encode("cp1250"), "iconv"),
    ],
)
def test_an_unusable_catalog_is_one_line(tmp_path: Path, data: bytes | None, word: str) -> None:
    path = tmp_path / "catalog.txt"
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(UserError, match=word) as caught:
        read_catalog(path)
    assert "catalog.txt" in str(caught.value)
    assert "\n" not in str(caught.value)
