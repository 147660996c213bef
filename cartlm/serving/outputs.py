"""Files of answers: JSON Lines, CSV or Parquet by the suffix, each whole or not there."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from cartlm.data.tables import pyarrow_parquet
from cartlm.errors import UserError
from cartlm.files import replacing

SUFFIXES = (".jsonl", ".ndjson", ".csv", ".tsv", ".parquet")
COLUMNS = ("id", "action", "product", "quantity", "confidence", "latency_ms")
ROWS = 10_000  # of a Parquet row group


def check_output(path: Path) -> None:
    """Raise UserError for a suffix that is not written, and for Parquet without pyarrow."""
    if path.suffix.lower() not in SUFFIXES:
        raise UserError(
            f"{path} is neither {' nor '.join(SUFFIXES)}", "name an output with one of these suffixes"
        )
    if path.suffix.lower() == ".parquet":
        pyarrow_parquet(path)


def check_apart(output: Path, inputs: Mapping[str, Path]) -> None:
    """Raise UserError where the output is one of the `inputs`, given by their options, under whatever name."""
    for option, path in inputs.items():
        if output.resolve() == path.resolve() or (
            output.exists() and path.exists() and output.samefile(path)
        ):
            raise UserError(f"{output} is both --output and {option}", "name another output")


def write_answers(path: Path, answers: Iterable[dict[str, Any]], numbered: bool) -> None:
    """Write COLUMNS of the answers; a `confidence` of None is null, or empty in CSV. `numbered`: all ids are numbers."""
    rows = ({name: answer.get(name) for name in COLUMNS} for answer in answers)
    with replacing(path) as temporary:
        match path.suffix.lower():
            case ".parquet":
                _write_parquet(temporary, rows, numbered)
            case ".csv" | ".tsv" as suffix:
                with temporary.open("w", encoding="utf-8", newline="") as file:
                    writer = csv.DictWriter(file, COLUMNS, delimiter="\t" if suffix == ".tsv" else ",")
                    writer.writeheader()
                    writer.writerows(rows)
            case _:
                write_jsonl(temporary, rows)


def write_jsonl(path: Path, values: Iterable[dict[str, Any]]) -> None:
    """Write a line a value."""
    with path.open("w", encoding="utf-8", newline="\n") as file:
        for value in values:
            file.write(json.dumps(value, ensure_ascii=False) + "\n")


def parquet_bytes(
    answers: Sequence[dict[str, Any]], numbered: bool, metadata: Mapping[bytes, bytes]
) -> bytes:
    """A Parquet file of COLUMNS of the answers, with `metadata` of its own."""
    buffer = io.BytesIO()
    rows = ({name: answer.get(name) for name in COLUMNS} for answer in answers)
    _write_parquet(buffer, rows, numbered, metadata)
    return buffer.getvalue()


def _write_parquet(
    target: Path | io.BytesIO,
    rows: Iterator[dict[str, Any]],
    numbered: bool,
    metadata: Mapping[bytes, bytes] | None = None,
) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    schema = pa.schema(
        [
            ("id", pa.int64() if numbered else pa.string()),
            ("action", pa.string()),
            ("product", pa.string()),
            ("quantity", pa.int64()),
            ("confidence", pa.float64()),
            ("latency_ms", pa.float64()),
        ],
        metadata,
    )
    with parquet.ParquetWriter(target, schema) as writer:
        while part := list(islice(rows, ROWS)):
            if not numbered:
                part = [{**row, "id": str(row["id"])} for row in part]
            writer.write_table(pa.Table.from_pylist(part, schema))
