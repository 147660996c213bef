"""Catalogs as people write them, in files and in cells."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cartlm.errors import UserError
from cartlm.serving.catalogs import cell_lines, read_catalog


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


@pytest.mark.parametrize(
    "cell",
    [
        ["Tea", " Milk 1 l "],
        ("Tea", "Milk 1 l"),
        '["Tea", "Milk 1 l"]',
        "['Tea', 'Milk 1 l']",
        "Tea\nMilk 1 l",
        "Tea\r\n\r\nMilk 1 l\r\n",
        "Tea | Milk 1 l",
    ],
)
def test_a_cell_holds_a_catalog_in_any_form(cell: Any) -> None:
    assert cell_lines(cell) == ["Tea", "Milk 1 l"]


@pytest.mark.parametrize(
    ("cell", "word"),
    [
        ([], "empty"),
        ("[]", "empty"),
        (" \n", "empty"),
        ([1], "list"),
        (7, "list"),
        ("Tea, Milk 1 l", "has a ','"),
        ("Tea|Milk 1 l", "has a '|'"),
    ],
)
def test_a_cell_without_a_catalog_says_so(cell: Any, word: str) -> None:
    with pytest.raises(ValueError, match=word):
        cell_lines(cell)


def test_a_bar_within_one_of_several_lines_stays() -> None:
    assert cell_lines("Tea | green\nMilk") == ["Tea | green", "Milk"]
    assert cell_lines('["Tea | green"]') == ["Tea | green"]
    assert cell_lines(["Tea, green"]) == ["Tea, green"]
