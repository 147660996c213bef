"""The sound rows of a user's file, and what is wrong with the others, by line."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from cartlm.data import records
from cartlm.data.near_duplicates import key, repeats
from cartlm.data.roles import TEST
from cartlm.data.tables import Source, folded
from cartlm.errors import UserError
from cartlm.own_rows.columns import LABEL, Mapped, resolve
from cartlm.task import rows as row_files
from cartlm.task.intent import NO_ORDER, NONE, parse_intent
from cartlm.task.prompt import split_prompt
from cartlm.task.rows import Row
from cartlm.text import few

LANGUAGE = "unknown"
"""Of every row: a user's language may be any, and is a slice like others."""
SIZES = {4: "1 to 4", 8: "5 to 8", 14: "9 to 14", 20: "15 to 20", 10**9: "over 20"}
"""Most catalog lines of a slice -> its name."""


@dataclass(frozen=True)
class Labelled:
    """A sound row, its line in the file, and its slices: kind -> value."""

    line: int
    row: Row
    slices: Mapping[str, str]


@dataclass(frozen=True)
class OwnRows:
    """A file as read: sound rows, (line, reason) of the broken ones, and notes on what was detected."""

    path: Path
    rows: list[Labelled] = field(default_factory=list)
    broken: list[tuple[int, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def read(path: Path, mapped: Mapped, catalog: Sequence[str] | None = None) -> OwnRows:
    """The rows of a file; `catalog` takes the place of each row's own.

    Raises UserError for a file that cannot be read to its end, or without a column that is named or necessary.
    """
    if path.is_dir():
        raise UserError(f"{path} is a folder", "name one file")
    source = Source(path, mapped.wanted)
    if cut := source.survey()[1]:
        raise UserError(cut, "fix the file")
    fields = resolve(source, mapped, catalog is not None)
    read = OwnRows(path, notes=source.notes)
    every: list[tuple[int, dict[str, Any]]] = []
    for line, record in source.records():
        try:
            if isinstance(record, str):
                raise ValueError(record)
            every.append((line, _ours(record, fields, mapped, catalog)))
        except ValueError as error:
            read.broken.append((line, str(error)))
    barred = records.products_with_bars(values for _, values in every)
    for line, values in every:
        try:
            read.rows.append(_labelled(line, values, path, barred))
        except ValueError as error:
            read.broken.append((line, str(error)))
    read.broken.sort()
    return read


def _ours(
    record: Mapping[str, Any], fields: Mapping[str, str], mapped: Mapped, catalog: Sequence[str] | None
) -> dict[str, Any]:
    """A record under our names, with its slices. Raises ValueError for what is missing, or is no action or prompt."""
    given = {ours: record.get(folded(column)) for ours, column in fields.items()}
    cells = {ours: value for ours, value in given.items() if value not in (None, "")}
    values: dict[str, Any] = {"language": LANGUAGE}
    if "message" in fields:
        values |= {name: cells[name] for name in ("message", "catalog") if name in cells}
    if "prompt" in cells and not {"message", "catalog"} <= values.keys():
        lines, message = split_prompt(str(cells["prompt"]))
        values = {"catalog": lines, "message": message, **values}
    if catalog is not None:
        values["catalog"] = list(catalog)
    label = {name: cells[name] for name in LABEL if name in cells}
    if "completion" in cells and not set(LABEL) <= fields.keys():
        intent = parse_intent(str(cells["completion"]))
        label = {name: getattr(intent, name) for name in LABEL}
    if "action" in label:
        label["action"] = mapped.action(label["action"])
    if label.get("action") == NONE:
        label = {**asdict(NO_ORDER), **label}
    if missing := [name for name in ("message", "catalog", *LABEL) if name not in values | label]:
        raise ValueError("nothing in " + ", ".join(_named(name, fields) for name in missing))
    values |= label
    names = {"language": "language", **{f"slice {name}": name for name in mapped.slices}}
    values["slices"] = {name: str(cells[at]) for at, name in names.items() if at in cells}
    return values


def _named(name: str, fields: Mapping[str, str]) -> str:
    """One of our names, and the file's where it differs."""
    theirs = fields.get(name, name)
    return name if theirs.casefold() == name else f"{theirs!r} ({name})"


def _labelled(line: int, values: dict[str, Any], path: Path, barred: Collection[str]) -> Labelled:
    slices = values.pop("slices")
    none = values["action"] == NONE  # which `Mapped` knows, or the row would be broken
    row = records.as_row(f"{path.name}:{line}", values, [LANGUAGE], barred, none)
    size = next(name for most, name in SIZES.items() if len(row.catalog) <= most)
    return Labelled(line, row, {**slices, "action": row.intent.action, "catalog lines": size})


def warnings(read: OwnRows, train: Path) -> list[str]:
    """What makes the figures say less: rows that contradict one another, and rows that `train` has too, where it exists."""
    rows = [each.row for each in read.rows]
    found = []
    if against := [each.row.id for each in repeats({TEST: rows}) if not each.same_label]:
        what = f"with another label than before: {few(against, 8)}"
        found.append(f"{len(against)} rows repeat a message and its catalog {what}")
    if train.is_file():
        trained = {key(row) for row in row_files.read(train)}
        if count := sum(key(row) in trained for row in rows):
            found.append(f"{count} of {len(rows)} rows are in {train} too: the model was trained on them")
    return found
