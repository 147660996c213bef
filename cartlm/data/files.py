"""The user's own rows: JSONL or CSV, each row checked, every problem with its line.

Two layouts, told apart by their columns: catalog, message, action, product, quantity, language; or that of the published
dataset: prompt, completion, language. Other columns are passed over. In CSV the lines of a catalog stand one under the
other in their cell, or apart by " | ".
"""

from __future__ import annotations

import csv
import difflib
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cartlm import prompt as prompts
from cartlm.data import drawing
from cartlm.data.refusal import bad_sign
from cartlm.data.rows import Row, make
from cartlm.errors import UserError
from cartlm.intent import ACTIONS, Intent
from cartlm.intent import read as read_intent
from cartlm.params import Data

OURS = ("catalog", "message", "action", "product", "quantity", "language")
PUBLISHED = ("prompt", "completion", "language")
SUFFIXES = (".jsonl", ".csv")
LEAK = ('"action"', '"quantity"')
_HINT = "set data.path in params.yaml to a .jsonl or .csv file, or a folder of such files"


@dataclass(frozen=True)
class Problem:
    """What is wrong with one row; `line` counts from 1, in CSV the header is line 1."""

    line: int
    what: str


def splits(params: Data) -> drawing.Drawn:
    """Train, validation, test and calibration rows of `data.path`, drawn with `data.seed`.

    In a folder, files whose name starts with `test` are the test; where there are none, test is validation. Raises
    UserError naming file, line and problem of the first broken row, or where there are too few.
    """
    if params.path is None:
        raise UserError("data.source=file needs data.path", _HINT)
    path = Path(params.path)
    found = files(path)
    tests = [file for file in found if path.is_dir() and file.stem.startswith("test")]
    rows = [row for file in found if file not in tests for row in read(file, params.languages)]
    test = [row for file in tests for row in read(file, params.languages)]
    return drawing.splits(rows, test, params, str(path))


def files(path: Path) -> list[Path]:
    """The file itself, or the rows' files of a folder in name order. Raises UserError where there are none."""
    if path.is_file():
        if path.suffix not in SUFFIXES:
            raise UserError(f"{path} is neither .jsonl nor .csv", _HINT)
        return [path]
    if not path.is_dir():
        raise UserError(f"data.path={path} is not there", _HINT)
    found = sorted(file for file in path.iterdir() if file.suffix in SUFFIXES)
    if not found:
        raise UserError(f"{path} holds no .jsonl or .csv", _HINT)
    return found


def read(path: Path, languages: Sequence[str]) -> list[Row]:
    """All rows of a file. Raises UserError naming the first problem and how many there are."""
    rows, problems = inspect(path, languages)
    if problems:
        more = f" (and {len(problems) - 1} more problems)" if len(problems) > 1 else ""
        raise UserError(f"{path}:{problems[0].line}: {problems[0].what}{more}", f"cartlm data check {path}")
    return rows


def inspect(path: Path, languages: Sequence[str]) -> tuple[list[Row], list[Problem]]:
    """The sound rows of a file, ids from its name and lines, and all problems in line order; one a row at most."""
    rows: list[Row] = []
    problems: list[Problem] = []
    seen: dict[str, tuple[int, str]] = {}
    for line, record in _records(path):
        try:
            if isinstance(record, str):
                raise ValueError(record)
            row = as_row(f"{path.name}-{line:05d}", record, languages)
            if row.prompt in seen:
                first, completion = seen[row.prompt]
                same = completion == row.completion
                raise ValueError(
                    f"the same catalog and message as line {first}{'' if same else ', with another label'}"
                )
            seen[row.prompt] = (line, row.completion)
            rows.append(row)
        except ValueError as error:
            problems.append(Problem(line, str(error)))
    if not rows and not problems:
        problems.append(Problem(1, "the file holds no rows"))
    return rows, problems


def _records(path: Path) -> Iterator[tuple[int, dict[str, Any] | str]]:
    """(line, record) of each row; instead of a record a text that says what is broken. Raises UserError for no file."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}", "name a .jsonl or .csv file") from None
    lines = data.removeprefix(b"\xef\xbb\xbf").split(b"\n")
    broken = {number for number, line in enumerate(lines, 1) if not _utf8(line)}
    if path.suffix == ".csv":
        yield from _csv(b"\n".join(lines).decode("utf-8", "replace"), broken)
        return
    for number, line in enumerate(lines, 1):
        if number in broken:
            yield number, "not UTF-8"
        elif line.strip():
            try:
                record = json.loads(line)
            except ValueError as error:
                yield number, f"not JSON ({getattr(error, 'msg', error)})"
                continue
            yield number, record if isinstance(record, dict) else f"{type(record).__name__}, not a JSON object"


def _csv(text: str, broken: set[int]) -> Iterator[tuple[int, dict[str, Any] | str]]:
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    header: list[str] = []
    start = 1
    try:
        for cells in reader:
            line, start = start, reader.line_num + 1
            if not cells:
                continue
            if not header:
                header = [cell.strip() for cell in cells]
            elif broken & set(range(line, start)):
                yield line, "not UTF-8"
            elif len(cells) != len(header):
                yield line, f"{len(cells)} cells, where the header has {len(header)}"
            else:
                yield line, {name: cell for name, cell in zip(header, cells, strict=True) if name}
    except csv.Error as error:
        yield start, f"not CSV ({error}); the rows after it are not read"


def _utf8(data: bytes) -> bool:
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def as_row(id: str, record: dict[str, Any], languages: Sequence[str]) -> Row:
    """A row of the contract, without tags. Raises ValueError saying what is broken."""
    published = "prompt" in record and "message" not in record
    columns = PUBLISHED if published else OURS
    if missing := [name for name in columns if record.get(name) in (None, "")]:
        raise ValueError(f"nothing in {', '.join(missing)}; the row has {', '.join(map(str, record)) or 'nothing'}")
    if published:
        for name in PUBLISHED:
            _text(record, name)
        catalog, message = prompts.split(record["prompt"])
        intent = read_intent(record["completion"])
        if record["completion"] != intent.canonical():
            raise ValueError(f"completion {record['completion']!r:.80} is not written as {intent.canonical()!r:.80}")
    else:
        catalog, message, intent = _catalog(record["catalog"]), _text(record, "message"), _intent(record)
    language = _text(record, "language")
    if language not in languages:
        raise ValueError(f"language is {language!r}, not one of data.languages: {', '.join(languages)}")
    _check(catalog, message, intent)
    return make(id, language, catalog, message, intent, {})


def _text(record: dict[str, Any], name: str) -> str:
    value = record[name]
    if not isinstance(value, str):
        raise ValueError(f"{name} is {value!r:.60}, not text")
    return value


def _catalog(value: Any) -> list[str]:
    if isinstance(value, str):
        value = value.split(" | ") if " | " in value else value.splitlines()
    if not isinstance(value, list) or not all(isinstance(line, str) for line in value):
        raise ValueError(f"catalog is {value!r:.60}, not a list of lines")
    return value


def _intent(record: dict[str, Any]) -> Intent:
    action, product, quantity = record["action"], _text(record, "product"), record["quantity"]
    if action not in ACTIONS:
        raise ValueError(f"action is {action!r:.60}, not {' or '.join(ACTIONS)}")
    if isinstance(quantity, str) and quantity.strip().isdecimal():
        quantity = int(quantity)
    if isinstance(quantity, bool) or not isinstance(quantity, int) or quantity < 1:
        raise ValueError(f"quantity is {quantity!r:.60}, not a whole number from 1")
    return Intent(action, product, quantity)


def _check(catalog: Sequence[str], message: str, intent: Intent) -> None:
    """Raise ValueError for what would not come back out of a prompt, or could not be learned."""
    for line in catalog:
        if not line.strip() or line != line.strip() or "\n" in line:
            raise ValueError(f"catalog line {line!r:.60} is empty, or has blanks around it or a line break within")
    if len(set(catalog)) != len(catalog):
        twice = next(line for line in catalog if catalog.count(line) > 1)
        raise ValueError(f"catalog line {twice!r:.60} occurs twice")
    if intent.product not in catalog:
        near = difflib.get_close_matches(intent.product, catalog, 1)
        raise ValueError(
            f"product {intent.product!r:.60} is not a catalog line" + (f"; the nearest is {near[0]!r}" if near else "")
        )
    if not message.strip():
        raise ValueError("the message is blank")
    for text in (message, *catalog):
        if sign := bad_sign(text.replace("\n", " ").replace("\t", " ")):
            why = ": it was decoded wrongly before it came here" if sign == "\ufffd" else ", which no message has"
            raise ValueError(f"{text!r:.60} holds U+{ord(sign):04X}{why}")
    if all(word in message for word in LEAK) or intent.canonical() in message:
        raise ValueError("the message holds the answer's JSON")
