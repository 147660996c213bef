"""Words as the reader compares them."""

from __future__ import annotations

import unicodedata

import pytest

from cartlm.baseline.text import ALIKE, Line, fold, similarity, split_line, split_words


def texts(message: str) -> list[str]:
    return [word.text for word in split_words(fold(message))]


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("Čokolada od ĐUMBIRA", "cokolada od dumbira"),
        ("Jabón líquido, ¿sí?", "jabon liquido, ¿si?"),
        ("Don’t, don't", "dont, dont"),
        ("Piñatas", "pinatas"),
        ("Straße", "strasse"),
    ],
)
def test_plain_text_has_no_diacritics_in_either_form(text: str, wanted: str) -> None:
    assert fold(text) == fold(unicodedata.normalize("NFD", text)) == wanted


@pytest.mark.parametrize(
    ("message", "words"),
    [
        ("- 2x tea (500ml)", ["-", "2", "x", "tea", "500", "ml"]),
        ("web-kamera 1,5L... no", ["web", "kamera", "1.5", "l", "...", "no"]),
        ("+2 teas – please", ["+", "2", "teas", "please"]),
        ("чай 3", ["чаи", "3"]),
        ("?!", []),
    ],
)
def test_a_message_in_words_numbers_and_signs(message: str, words: list[str]) -> None:
    assert texts(message) == words


def test_what_is_glued_to_a_number_is_known() -> None:
    assert [(word.text, word.glued) for word in split_words("x2 64gb 64 gb")] == [
        ("x", False), ("2", True), ("64", False), ("gb", True), ("64", False), ("gb", False),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ("Hand Soap (500ml)", Line(("hand", "soap"), ("500", "ml"))),
        ("Maslinovo ulje 1 l", Line(("maslinovo", "ulje", "l"), ("1",))),
        ("Camiseta técnica (L)", Line(("camiseta", "tecnica"), ("l",))),
        ("USB-C Cable 2m", Line(("usb", "c", "cable"), ("2", "m"))),
        ("Big Mac", Line(("big", "mac"), ())),
        ("***", Line((), ())),
    ],
)
def test_a_catalog_line_has_a_name_and_a_size(line: str, wanted: Line) -> None:
    assert split_line(line) == wanted


def test_inflected_and_misspelt_words_are_alike_and_sizes_are_not() -> None:
    for one, other in (
        ("kopacke", "kopacki"),
        ("guanges", "guantes"),
        ("soap", "soaps"),
        ("cokolada", "cokoladu"),
    ):
        assert ALIKE <= similarity(one, other) < 1
    for one, other in (("64", "640"), ("l", "xl"), ("tea", "64"), ("tea", "rice"), ("m", "mm")):
        assert similarity(one, other) == 0
    assert similarity("l", "l") == similarity("64", "64") == 1
