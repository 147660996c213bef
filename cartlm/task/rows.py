"""Rows on disk: JSONL with the fields of the row contract, one row a line."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path

from cartlm.errors import UserError
from cartlm.files import write_text
from cartlm.task import prompt as prompts
from cartlm.task.intent import Intent, parse_intent

FIELDS = ("id", "language", "catalog", "message", "prompt", "completion", "tags")


@dataclass(frozen=True)
class Row:
    """One labelled message; `prompt` and `completion` have the form of the published dataset."""

    id: str
    language: str
    catalog: list[str]
    message: str
    prompt: str
    completion: str
    tags: dict[str, str | bool | int] = field(default_factory=dict)

    @property
    def intent(self) -> Intent:
        return parse_intent(self.completion)


def make(
    id: str,
    language: str,
    catalog: list[str],
    message: str,
    intent: Intent,
    tags: dict[str, str | bool | int],
) -> Row:
    """A row whose prompt and completion are rendered from its label."""
    return Row(
        id, language, catalog, message, prompts.render_prompt(catalog, message), intent.canonical(), tags
    )


def _parse(line: str, where: str) -> Row:
    def wrong(what: str) -> UserError:
        return UserError(f"{where}: {what}", "dvc repro data")

    try:
        value = json.loads(line)
    except json.JSONDecodeError as error:
        raise wrong(f"not JSON ({error.msg} at column {error.colno})") from None
    if not isinstance(value, dict) or set(value) != set(FIELDS):
        fields = sorted(value) if isinstance(value, dict) else type(value).__name__
        raise wrong(f"fields are {fields}, not {sorted(FIELDS)}")
    row = Row(**value)
    for name in ("id", "language", "message", "prompt", "completion"):
        if not isinstance(value[name], str):
            raise wrong(f"{name} is {value[name]!r:.60}, not text")
    if not isinstance(row.tags, dict):
        raise wrong(f"tags is {row.tags!r:.60}, not a mapping")
    if not isinstance(row.catalog, list) or not all(isinstance(line, str) for line in row.catalog):
        raise wrong(f"catalog is {row.catalog!r:.60}, not a list of lines")
    if row.prompt != prompts.render_prompt(row.catalog, row.message):
        raise wrong("the prompt is not its catalog and message")
    try:
        product = row.intent.product
    except ValueError as error:
        raise wrong(f"completion {row.completion!r:.60}: {error}") from None
    if product not in row.catalog:
        raise wrong(f"product {product!r} is not a catalog line")
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
    """Write the rows, the file whole or not at all."""
    write_text(path, "".join(json.dumps(asdict(row), ensure_ascii=False) + "\n" for row in rows))
