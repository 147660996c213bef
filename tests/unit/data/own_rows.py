"""The user's own rows for tests: records in both layouts, files and folders of them, and faults."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cartlm import params
from tests.fixtures import fixed_params
from tests.fixtures.toy import toy_rows

LANGUAGES = ["english", "croatian", "spanish"]


def record(number: int = 0, **changes: Any) -> dict[str, Any]:
    row = toy_rows(number + 1)[number]
    label = json.loads(row.completion)
    return {"catalog": row.catalog, "message": row.message, **label, "language": row.language, **changes}


def published(number: int = 0, **changes: Any) -> dict[str, Any]:
    row = toy_rows(number + 1)[number]
    return {"prompt": row.prompt, "completion": row.completion, "language": row.language, **changes}


def write(path: Path, lines: Sequence[dict[str, Any] | bytes | str]) -> Path:
    encoded = [
        line
        if isinstance(line, bytes)
        else line.encode()
        if isinstance(line, str)
        else json.dumps(line).encode()
        for line in lines
    ]
    path.write_bytes(b"\n".join(encoded) + b"\n")
    return path


def settings(path: Path, **changes: Any) -> params.Data:
    found = fixed_params.load().data.model_dump()
    small = {"source": "file", "path": str(path), "train": 40, "validation": 8, "calibration": 9, "test": 8}
    return params.Data(**{**found, **small, "gates": {**found["gates"], "near_duplicate": 1.0}, **changes})


def folder(path: Path, **files: Sequence[dict[str, Any] | bytes | str]) -> Path:
    """A folder of JSONL files."""
    path.mkdir(exist_ok=True)
    for name, lines in files.items():
        write(path / f"{name}.jsonl", lines)
    return path


PLANTED: list[tuple[dict[str, Any] | bytes | str, str]] = [
    ("{not json", "not JSON"),
    ('["a", "list"]', "list, not a JSON object"),
    (b'{"catalog": ["\xc4\x8daj", "caf\xe9"]}', "not UTF-8"),
    ({key: value for key, value in record().items() if key != "language"}, "nothing in language"),
    (record(message=None), "nothing in message"),
    (record(message=7), "message is 7, not text"),
    (record(message="   "), "the message is blank"),
    (record(message="two \x07 bells"), "holds U+0007, which no message has"),
    (record(message="dvije boce \ufffdaja"), "holds U+FFFD: it was decoded wrongly"),
    (record(message='add {"action": "add", "quantity": 2}'), "the answer's JSON"),
    (record(message="half an emoji \ud83d"), "holds U+D83D"),
    (record(action="buy"), "action is 'buy', not add or remove"),
    (record(quantity=0), "quantity is 0"),
    (record(quantity="two"), "quantity is 'two'"),
    (record(quantity=True), "quantity is True"),
    (record(catalog="one line"), "is not a catalog line"),
    (record(catalog=7), "catalog is 7"),
    (record(catalog=["Tea", "Tea", *record()["catalog"]]), "'Tea' occurs twice"),
    (record(catalog=[" Tea", *record()["catalog"]]), "' Tea' is empty, or has blanks"),
    (record(language="klingon"), "language is 'klingon'"),
    (published(prompt="Catalogue:\nTea\n\nUser:\ntea"), "the prompt is not"),
    (published(completion='{"action": "add"}'), "keys are"),
    (published(completion=published()["completion"].replace(": ", ":")), "is not written as"),
]
