"""The user's own rows: files in two layouts, each row checked, every problem with its file and line.

The layouts are told apart by their columns: catalog, message, action, product, quantity, language; or that of the published
dataset: prompt, completion, language. Other columns are passed over. A catalog is a list, or as text its lines one under the
other, or apart by " | ".
"""

from __future__ import annotations

import shlex
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cartlm.data import labels, pooled, roles, sampling, tables
from cartlm.data.config import Data
from cartlm.data.labels import OURS, PUBLISHED, as_row
from cartlm.data.tables import SUFFIXES
from cartlm.errors import UserError
from cartlm.task.rows import Row

__all__ = ["OURS", "PUBLISHED", "Found", "Problem", "as_row", "gather", "inspect", "read", "splits"]
_HINT = f"set data.path in params.yaml to a file ({', '.join(SUFFIXES)}), or a folder of such files"


@dataclass(frozen=True)
class Problem:
    """What is wrong with one row; `line` counts from 1, in CSV the header is line 1."""

    line: int
    what: str


@dataclass(frozen=True)
class Found:
    """The sound rows of each file and of each role, and what there is to say.

    `problems` begin with the file and line; `notes` say which file became what, how it was read, and what was left out.
    """

    files: dict[Path, list[Row]] = field(default_factory=dict)
    parts: dict[str, list[Row]] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    repeats: list[str] = field(
        default_factory=list
    )  # rows of training or validation that are held out as well


def splits(params: Data) -> sampling.Drawn:
    """Train, validation, test and calibration rows of `data.path`, drawn with `data.seed`; notes go to stderr.

    In a folder each file's name says what it is for (cartlm/data/roles.py). Raises UserError naming file, line and problem of
    the first broken row, or where there are too few.
    """
    if params.path is None:
        raise UserError("data.source=file needs data.path", _HINT)
    found = gather(Path(params.path), params.languages)
    for note in found.notes:
        sampling.tell(note)
    _stop(found.problems, Path(params.path))
    return sampling.splits(found.parts, params, params.path)


def gather(path: Path, languages: Sequence[str]) -> Found:
    """All rows of a file or folder with everything that is wrong, file by file and across files. Raises UserError for none.

    A file that was named by itself has no role: all splits are drawn from it.
    """
    found = Found()
    if path.is_dir():
        folder = roles.survey(path, SUFFIXES)
        if not folder.files and not folder.problems:
            there = f"; it holds {', '.join(folder.left_out[:8])}" if folder.left_out else ""
            raise UserError(f"{path} holds no {' or '.join(SUFFIXES)}{there}", _HINT)
        found.notes.extend(folder.notes())
        found.problems.extend(f"{path}: {problem}" for problem in folder.problems)
        files = folder.files
    else:
        if path.is_file() and path.suffix.lower() not in SUFFIXES:
            raise UserError(f"{path} is neither {' nor '.join(SUFFIXES)}", _HINT)
        if not path.exists():
            raise UserError(f"data.path={path} is not there", _HINT)
        files = [roles.File(path, path.name, roles.TRAIN, False)]
        if roles.found(path.stem) - {roles.TRAIN}:
            found.notes.append(f"{path.name}: all splits are drawn from it, as it was named by itself")
    places: dict[str, str] = {}
    read = {}
    for file in files:
        try:
            read[file] = tables.read(file.path)
        except UserError as error:  # the file as a whole: the others are still looked at
            found.problems.append(str(error))
    barred = labels.bars(record for table in read.values() for _, record in table.records)
    for file, table in read.items():
        found.notes.extend(f"{file.name}: {note}" for note in table.notes)
        rows, problems = _rows(table, file.name, languages, barred)
        found.files[file.path] = rows
        found.parts.setdefault(file.role, []).extend(rows)
        found.problems.extend(f"{file.path}:{problem.line}: {problem.what}" for problem in problems)
        places.update((row.id, f"{file.path}:{line_of(row)}") for row in rows)
    for pair in pooled.pairs(found.parts):
        told = f"{places[pair.row.id]}: the same catalog and message as {places[pair.other.id]}"
        if not pair.alike:
            found.problems.append(f"{told}, with another label")
        elif pair.role == pair.other_role:
            found.problems.append(told)
        else:
            found.repeats.append(f"{told}: left out of {pair.role}")
    return found


def line_of(row: Row) -> int:
    """The line of a row in its file."""
    return int(row.id.rpartition("-")[2])


def read(path: Path, languages: Sequence[str]) -> list[Row]:
    """All rows of a file. Raises UserError naming the first problem and how many there are."""
    rows, problems = inspect(path, languages)
    _stop([f"{path}:{problem.line}: {problem.what}" for problem in problems], path)
    return rows


def _stop(problems: Sequence[str], path: Path) -> None:
    if problems:
        more = f" (and {len(problems) - 1} more problems)" if len(problems) > 1 else ""
        raise UserError(problems[0] + more, f"cartlm data check {shlex.quote(str(path))}")


def inspect(path: Path, languages: Sequence[str]) -> tuple[list[Row], list[Problem]]:
    """The sound rows of a file, ids from its name and lines, and all problems in line order; one a row at most."""
    table = tables.read(path)
    return _rows(table, path.name, languages, labels.bars(record for _, record in table.records))


def _rows(
    table: tables.Table, name: str, languages: Sequence[str], barred: Collection[str]
) -> tuple[list[Row], list[Problem]]:
    """As `inspect`, the ids from `name`; `barred`: as `labels.bars` found them."""
    rows: list[Row] = []
    problems: list[Problem] = []
    seen: dict[pooled.Key, tuple[int, Row]] = {}
    for line, record in table.records:
        try:
            if isinstance(record, str):
                raise ValueError(record)
            row = as_row(f"{name}-{line:05d}", record, languages, barred)
            first, other = seen.setdefault(pooled.key(row), (line, row))
            if other is not row:
                same = "" if pooled.same_label(row, other) else ", with another label"
                raise ValueError(f"the same catalog and message as line {first}{same}")
            rows.append(row)
        except ValueError as error:
            problems.append(Problem(line, str(error)))
    if not rows and not problems:
        problems.append(Problem(1, "the file holds no rows"))
    return rows, problems
