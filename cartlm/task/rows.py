"""Rows on disk: JSONL with the fields of the row contract, one row a line."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import ClassVar

from pydantic import ConfigDict, TypeAdapter, ValidationError

from cartlm.config import first_wrong
from cartlm.errors import UserError
from cartlm.files import write_text
from cartlm.task import prompt as prompts
from cartlm.task.intent import NO_ORDER, Intent, parse_intent

Tags = dict[str, str | bool | int]


@dataclass(frozen=True)
class Row:
    """One labelled message; `prompt` and `completion` have the form of the published dataset."""

    __pydantic_config__: ClassVar = ConfigDict(extra="forbid", strict=True)

    id: str
    language: str
    catalog: list[str]
    message: str
    prompt: str
    completion: str
    tags: Tags = field(default_factory=dict)

    @property
    def intent(self) -> Intent:
        return parse_intent(self.completion)

    @property
    def is_order(self) -> bool:
        return self.completion != NO_ORDER.canonical()


def make(id: str, language: str, catalog: list[str], message: str, intent: Intent, tags: Tags) -> Row:
    """A row whose prompt and completion are rendered from its label."""
    prompt = prompts.render_prompt(catalog, message)
    return Row(id, language, catalog, message, prompt, intent.canonical(), tags)


_ROW = TypeAdapter(Row)


def _parse(line: bytes) -> Row:
    """The row of a line. Raises ValueError."""
    try:
        row = _ROW.validate_json(line)
        intent = row.intent
    except ValidationError as error:
        raise ValueError(first_wrong(error)) from None
    except ValueError as error:
        raise ValueError(f"completion {row.completion!r:.60}: {error}") from None
    if row.prompt != prompts.render_prompt(row.catalog, row.message):
        raise ValueError("the prompt is not its catalog and message")
    if intent != NO_ORDER and intent.product not in row.catalog:
        raise ValueError(f"product {intent.product!r} is not a catalog line")
    return row


def read(path: Path) -> list[Row]:
    """All rows of a file, checked. Raises UserError naming file and line of the first broken one."""
    try:
        lines = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        raise UserError(f"{path} is missing", "dvc repro data") from None
    rows = []
    for number, line in enumerate(lines, 1):
        try:
            rows += [_parse(line)] if line.strip() else []
        except ValueError as error:
            raise UserError(f"{path}:{number}: {error}", "dvc repro data") from None
    if not rows:
        raise UserError(f"{path} holds no rows", "dvc repro data")
    return rows


def write(path: Path, rows: Iterable[Row]) -> None:
    """Write the rows, the file whole or not at all."""
    write_text(path, "".join(json.dumps(asdict(row), ensure_ascii=False) + "\n" for row in rows))
