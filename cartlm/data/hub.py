"""Rows of a published dataset: a hub id and revision, or a local folder in hub layout (JSONL or parquet)."""

from __future__ import annotations

import errno
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from cartlm import prompt as prompts
from cartlm.data import drawing
from cartlm.data.rows import Row
from cartlm.errors import UserError
from cartlm.params import Data

COLUMNS = ("prompt", "completion", "language")
FILES = ("*.jsonl", "*.parquet", "data/*.jsonl", "data/*.parquet")
_HINT = "set data.path in params.yaml to a dataset with the columns prompt, completion and language"


def splits(params: Data) -> drawing.Drawn:
    """Train, validation, test and calibration rows, drawn with `data.seed`.

    A file whose name starts with `test` is the test; where there is none, test is validation (the paper's own
    protocol: 2,700 and 300 rows), with the same ids. Near-duplicates as `drawing.splits` says. Rows that break the contract are left out and counted on stderr. Raises UserError for a dataset
    that is not there, has other columns, or too few rows.
    """
    if params.path is None:
        raise UserError("data.source=hub needs data.path", _HINT)
    folder = Path(params.path)
    if not folder.is_dir():
        folder = download(params.path, params.revision)
    test_files = [path for path in files(folder) if path.stem.startswith("test")]
    rows = read(folder, [path for path in files(folder) if path not in test_files], params.languages)
    test = read(folder, test_files, params.languages) if test_files else []
    return drawing.splits(rows, test, params, params.path)


def held_out(params: Data) -> list[Row]:
    """All usable rows of `data.held_out`, an id or a folder; none where it is null. Raises UserError as `splits` does."""
    if params.held_out is None:
        return []
    folder = Path(params.held_out)
    if not folder.is_dir():
        folder = download(params.held_out, params.held_out_revision, "held_out")
    rows = read(folder, files(folder), params.languages)
    if not rows:
        raise UserError(f"data.held_out={params.held_out} has no usable row", "set data.held_out to null in params.yaml")
    return [replace(row, id=f"published-{row.id}") for row in rows]


def download(name: str, revision: str | None, key: str = "path") -> Path:
    """The data files of a hub dataset, in the hub's own cache. Raises UserError; `data.{key}` is what named it."""
    import huggingface_hub as hub
    from huggingface_hub import errors

    if name.startswith(("/", ".", "~")) or name.count("/") != 1:
        raise UserError(
            f"data.{key}={name} is neither a folder nor a hub id such as jtlicardo/ecommerce-intent-3k", _HINT
        )
    try:
        return Path(
            hub.snapshot_download(name, repo_type="dataset", revision=revision, allow_patterns=list(FILES))
        )
    except errors.RevisionNotFoundError:
        raise UserError(f"{name} has no revision {revision}", f"set data.{'revision' if key == 'path' else key + '_revision'} in params.yaml") from None
    except errors.RepositoryNotFoundError:
        raise UserError(
            f"the hub has no dataset {name} (or it is private)", f"hf auth login, or set data.{key}"
        ) from None
    except Exception as error:  # the network fails in the way of the library that meets it first
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT):
            raise
        raise UserError(
            f"the dataset {name} cannot be fetched from the hub ({type(error).__name__})",
            f"check the network, or set data.{key} to a local folder, or make preset NAME=offline",
        ) from None


def files(folder: Path) -> list[Path]:
    """The data files of a folder in hub layout, in name order. Raises UserError if there are none."""
    found = sorted(path for pattern in FILES for path in folder.glob(pattern))
    if not found:
        raise UserError(f"{folder} holds no *.jsonl or *.parquet", _HINT)
    return found


def _records(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """(place, record) of each row of a file."""
    if path.suffix == ".parquet":
        import pyarrow
        import pyarrow.parquet

        try:
            table = pyarrow.parquet.read_table(path)
        except pyarrow.ArrowInvalid as error:
            raise UserError(f"{path} is not parquet: {error}", _HINT) from None
        for number, record in enumerate(table.to_pylist(), 1):
            yield f"{path}:{number}", record
        return
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 ({error.reason} at byte {error.start})", _HINT) from None
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                record = json.loads(line)
            except json.JSONDecodeError as error:
                raise UserError(f"{path}:{number}: not JSON ({error.msg})", _HINT) from None
            yield f"{path}:{number}", record if isinstance(record, dict) else {}


def read(folder: Path, paths: Sequence[Path], languages: Sequence[str]) -> list[Row]:
    """All usable rows of `paths`, texts byte for byte; ids name file and line. Raises UserError on other columns."""
    rows, broken = [], []
    for path in paths:
        for place, record in _records(path):
            missing = [name for name in COLUMNS if not isinstance(record.get(name), str)]
            if missing:
                raise UserError(
                    f"{place}: no text in column {', '.join(missing)}; it has {sorted(record)}", _HINT
                )
            identity = f"{path.stem}-{place.rpartition(':')[2]:0>5}"
            try:
                rows.append(as_row(identity, record, languages))
            except ValueError as error:
                broken.append(f"{place}: {error}")
    if broken:
        print(f"left out {len(broken)} broken rows; the first: {broken[0]:.200}", file=sys.stderr, flush=True)
    return rows


def as_row(identity: str, record: dict[str, Any], languages: Sequence[str]) -> Row:
    """A row of the contract, without tags. Raises ValueError saying what is broken."""
    catalog, message = prompts.split(record["prompt"])
    row = Row(identity, record["language"], catalog, message, record["prompt"], record["completion"], {})
    if row.language not in languages:
        raise ValueError(f"language is {row.language!r}, not one of {', '.join(languages)}")
    if row.intent.product not in catalog:
        raise ValueError(f"product {row.intent.product!r} is not a catalog line")
    if len(set(catalog)) != len(catalog):
        raise ValueError("a catalog line occurs twice")
    return row
