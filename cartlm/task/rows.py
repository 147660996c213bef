"""Rows on disk: JSONL with the fields of the row contract, one row a line."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path

from cartlm.errors import UserError
from cartlm.files import write_text
from cartlm.task import prompt as prompts
from cartlm.task.intent import Intent
from cartlm.task.intent import read as read_intent

FIELDS = ("id", "language", "catalog", "message", "prompt", "completion", "tags")


@dataclass(frozen=True)
class Row:
    """One labelled message: `prompt` and `completion` are those of the published dataset, byte for byte."""

    id: str
    language: str
    catalog: list[str]
    message: str
    prompt: str
    completion: str
    tags: dict[str, str | bool | int] = field(default_factory=dict)

    @property
    def intent(self) -> Intent:
        return read_intent(self.completion)


def make(
    id: str,
    language: str,
    catalog: list[str],
    message: str,
    intent: Intent,
    tags: dict[str, str | bool | int],
) -> Row:
    """A row whose prompt and completion are rendered from its label."""
    return Row(id, language, catalog, message, prompts.render(catalog, message), intent.canonical(), tags)


def _parse(line: str, where: str) -> Row:
    try:
        value = json.loads(line)
    except json.JSONDecodeError as error:
        raise UserError(
            f"{where}: not JSON ({error.msg} at column {error.colno})", "dvc repro data"
        ) from None
    if not isinstance(value, dict) or set(value) != set(FIELDS):
        given = sorted(value) if isinstance(value, dict) else type(value).__name__
        raise UserError(f"{where}: fields are {given}, not {sorted(FIELDS)}", "dvc repro data")
    row = Row(**value)
    for name in ("id", "language", "message", "prompt", "completion"):
        if not isinstance(value[name], str):
            raise UserError(f"{where}: {name} is {value[name]!r:.60}, not text", "dvc repro data")
    if not isinstance(row.tags, dict):
        raise UserError(f"{where}: tags is {row.tags!r:.60}, not a mapping", "dvc repro data")
    if not isinstance(row.catalog, list) or not all(isinstance(line, str) for line in row.catalog):
        raise UserError(f"{where}: catalog is {row.catalog!r:.60}, not a list of lines", "dvc repro data")
    if row.prompt != prompts.render(row.catalog, row.message):
        raise UserError(f"{where}: the prompt is not its catalog and message", "dvc repro data")
    try:
        intent = row.intent
    except ValueError as error:
        raise UserError(f"{where}: completion {row.completion!r:.60}: {error}", "dvc repro data") from None
    if intent.product not in row.catalog:
        raise UserError(f"{where}: product {intent.product!r} is not a catalog line", "dvc repro data")
    return row


def read(path: Path) -> list[Row]:
    """All rows of a file, checked. Raises UserError naming file and line of the first broken one."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(f"{path} is missing", "dvc repro data") from None
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path} is not UTF-8 ({error.reason} at byte {error.start})", "dvc repro data"
        ) from None
    rows = [
        _parse(line, f"{path}:{number}") for number, line in enumerate(text.split("\n"), 1) if line.strip()
    ]
    if not rows:
        raise UserError(f"{path} holds no rows", "dvc repro data")
    return rows


def write(path: Path, rows: Iterable[Row]) -> None:
    """Write rows under a temporary name, then rename."""
    write_text(path, "".join(json.dumps(asdict(row), ensure_ascii=False) + "\n" for row in rows))
