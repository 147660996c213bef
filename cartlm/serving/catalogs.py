"""Catalogs as people write them: a file with one product per line, or a cell of a table."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cartlm.data import charset, records
from cartlm.errors import UserError


def read_catalog(path: Path) -> list[str]:
    """The products of a text file, one per line, stripped; blank lines are dropped.

    Raises UserError for an unreadable file, an unclear encoding, no product, a product twice, or a character that no
    product has.
    """
    try:
        data = path.read_bytes()
        with charset.detect(data, path).open(data) as file:
            lines = [line.strip() for line in file if line.strip()]
        if not lines:
            raise ValueError("no product")
        records.check_texts(lines)
    except (OSError, ValueError) as error:
        what = getattr(error, "strerror", None) or error
        raise UserError(
            f"the catalog {path}: {what}", "name a UTF-8 file with one product per line"
        ) from None
    return lines


def cell_lines(value: Any) -> list[str]:
    """The products of a cell, stripped: a list, a list written as text, a product per line, or separated by " | ".

    Raises ValueError for anything else, for a catalog without products, and for one line of text that seems to have another
    separator.
    """
    lines = records._lines(value)
    if not all(isinstance(line, str) for line in lines):
        raise ValueError(f"the catalog is {value!r:.60}, not a list of lines")
    listed = not isinstance(value, str) or value.lstrip().startswith("[")
    if not listed and len(lines) == 1:
        lines = lines[0].split(records.BAR)
        if len(lines) == 1 and (sign := next((sign for sign in ",;|" if sign in lines[0]), "")):
            what = f'the catalog {value!r:.60} has a {sign!r} but no " | " and no second line'
            raise ValueError(f"{what}: separate products by these, or write a JSON list")
    lines = [line.strip() for line in lines if line.strip()]
    if not lines:
        raise ValueError("the catalog is empty")
    return lines
