"""Files of results: metrics (flat JSON) and per-row outcomes (CSV), never half-written."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from numbers import Integral, Real
from pathlib import Path
from typing import Any, NamedTuple

from cartlm.errors import UserError
from cartlm.files import write_text

DIGITS = 4  # significant digits of a float in a metrics file


def write_metrics(path: Path, mapping: Mapping[str, Any]) -> None:
    """Write a metrics file: plain values, or sections (one level) of them; floats to 4 significant digits.

    Raises ValueError naming the key of a list, None, NaN, infinity or a section in a section: DVC drops the
    first two, and what was not measured is absent.
    """
    values = {
        key: {inner: _plain(f"{key}.{inner}", item) for inner, item in value.items()}
        if isinstance(value, Mapping)
        else _plain(key, value)
        for key, value in mapping.items()
    }
    write_text(path, json.dumps(values, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def rounded(value: float) -> float:
    """A float as metrics files have it."""
    return float(f"{value:.{DIGITS}g}")


def _plain(key: str, value: Any) -> str | bool | int | float:
    if isinstance(value, str | bool):
        return value
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, Real):
        if not math.isfinite(value):
            raise ValueError(f"{key} is {value}: leave out what was not measured")
        return rounded(float(value))
    raise ValueError(f"{key} is {value!r:.60}, not text, a number or a flat section")


def read_metrics(path: Path) -> dict[str, Any]:
    """The values of a metrics file. Raises FileNotFoundError, or UserError for one that is not a JSON object."""
    return parse_metrics(path.read_bytes(), str(path), f"git checkout {path}")


def parse_metrics(text: str | bytes, name: str, hint: str) -> dict[str, Any]:
    """The values in the text of the metrics file `name`. Raises UserError for what is not a JSON object."""
    try:
        values = json.loads(text)
    except ValueError as error:
        raise UserError(f"{name} is not JSON: {error}", hint) from None
    if not isinstance(values, dict):
        raise UserError(f"{name} is not a JSON object", hint)
    return values


class Outcome(NamedTuple):
    """One row's outcome (`cartlm.evaluation.scoring`), and the first 12 hex digits of its answer's SHA-256."""

    id: str
    outcome: str
    answer_hash: str


def answer_hash(text: str) -> str:
    """The hash of an answer's text, to see which answers differ without keeping them in git."""
    return hashlib.sha256(text.encode("utf-8")).hexdigest()[:12]


class Exact(NamedTuple):
    """Whether a row's answer was exact by each way of decoding: "1", "0", or empty for a way that was not asked.

    `set` is `test`, `natural` or `published`.
    """

    set: str
    id: str
    free: str
    constrained: str
    ensemble: str


def write_exact(path: Path, rows: Iterable[Exact]) -> None:
    """Write them as CSV with a header line, in the order given."""
    _write_csv(path, Exact._fields, rows)


def read_exact(path: Path) -> list[Exact]:
    """Those of a CSV file. Raises FileNotFoundError, or UserError for other columns."""
    lines = _parse_csv(path.read_text(encoding="utf-8"), str(path), Exact._fields)
    return [Exact(*line) for line in lines]


def write_outcomes(path: Path, outcomes: Iterable[Outcome]) -> None:
    """Write the outcomes as CSV with a header line, in the order given."""
    _write_csv(path, Outcome._fields, outcomes)


def read_outcomes(path: Path) -> list[Outcome]:
    """The outcomes of a CSV file. Raises FileNotFoundError, or UserError for other columns."""
    return parse_outcomes(path.read_text(encoding="utf-8"), str(path))


def parse_outcomes(text: str, name: str, hint: str = "") -> list[Outcome]:
    """The outcomes in the text of the file `name`. Raises UserError for other columns."""
    return [Outcome(*line) for line in _parse_csv(text, name, Outcome._fields, hint)]


def _write_csv(path: Path, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    write_text(path, text.getvalue())


def _parse_csv(text: str, name: str, columns: Sequence[str], hint: str = "") -> list[list[str]]:
    lines = list(csv.reader(io.StringIO(text)))
    if lines[:1] != [list(columns)] or any(len(line) != len(columns) for line in lines):
        raise UserError(f"{name} has not the columns {', '.join(columns)}", hint or f"git checkout {name}")
    return lines[1:]
