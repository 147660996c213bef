"""Rows of a published dataset: a hub id and revision, or a local folder in hub layout."""

from __future__ import annotations

import csv
import glob
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from cartlm.data import labels, pooled, roles, sampling
from cartlm.data.config import Data
from cartlm.errors import FULL, UserError
from cartlm.task import prompt as prompts
from cartlm.task.rows import Row
from cartlm.text import few

COLUMNS = ("prompt", "completion", "language")
SUFFIXES = (".csv", ".json", ".jsonl", ".parquet")
FILES = ("README.md", *(f"{folder}*{suffix}" for folder in ("", "data/") for suffix in SUFFIXES))
"""What is fetched of a dataset; README.md names its splits' files where their names do not."""
_HINT = "set data.path in params.yaml to a dataset with the columns prompt, completion and language"


def splits(params: Data) -> sampling.Drawn:
    """Train, validation, test and calibration rows, drawn with `data.seed`; what became of each split is told on stderr.

    Splits are taken by their names (cartlm/data/roles.py); without a test, test is validation (the paper's own protocol:
    2,700 and 300 rows), with the same ids. Near-duplicates as `drawing.splits` says. Rows that break the contract, or
    contradict another one, are left out and counted on stderr. Raises UserError for a dataset that is not there, has other
    columns, or too few rows.
    """
    if params.path is None:
        raise UserError("data.source=hub needs data.path", _HINT)
    loaded = load(params.path, params.revision)
    named: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for split, records in loaded.items():
        role = roles.of_split(split, params.path)
        named.setdefault(role, {})[split] = records
        sampling.tell(f"{params.path}: the split {split} ({len(records):,} rows): {role}")
    parts = {role: read(params.path, given, params.languages) for role, given in named.items()}
    return sampling.splits(consistent(parts, params.path), params, params.path)


def consistent(parts: Mapping[str, list[Row]], name: str) -> dict[str, list[Row]]:
    """The rows of each role without those that contradict another one; they are counted on stderr, the first one named."""
    found = pooled.pairs(parts)
    wrong = pooled.contradicting(found)
    if wrong:
        first = next(pair for pair in found if not pair.alike)
        sampling.tell(
            f"left out {len(wrong)} rows of {name} that have another label elsewhere; the first: {first.row.id} has the "
            f"catalog and message of {first.other.id}"
        )
    return {role: [row for row in rows if row.id not in wrong] for role, rows in parts.items()}


def held_out(params: Data) -> list[Row]:
    """All usable rows of `data.held_out`, an id or a folder; none where it is null. Raises UserError as `splits` does."""
    if params.held_out is None:
        return []
    rows = read(
        params.held_out, load(params.held_out, params.held_out_revision, "held_out"), params.languages
    )
    if not rows:
        raise UserError(
            f"data.held_out={params.held_out} has no usable row", "set data.held_out to null in params.yaml"
        )
    rows = consistent({roles.TEST: rows}, params.held_out)[roles.TEST]
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
        raise UserError(
            f"{name} has no revision {revision}",
            f"set data.{'revision' if key == 'path' else key + '_revision'} in params.yaml",
        ) from None
    except errors.RepositoryNotFoundError:
        raise UserError(
            f"the hub has no dataset {name} (or it is private)", f"hf auth login, or set data.{key}"
        ) from None
    except Exception as error:  # the network fails in the way of the library that meets it first
        if isinstance(error, OSError) and error.errno in FULL:
            raise
        raise UserError(
            f"the dataset {name} cannot be fetched from the hub ({type(error).__name__})",
            f"check the network, or set data.{key} to a local folder, or make preset NAME=offline",
        ) from None


def load(name: str, revision: str | None, key: str = "path") -> dict[str, list[dict[str, Any]]]:
    """Split -> its records, of a hub id or a folder in hub layout, as `datasets` reads it. Raises UserError.

    `data.{key}` is what named it. Nothing is kept in the library's cache: it would hide a file that was changed in place.
    """
    import datasets
    from datasets.exceptions import DataFilesNotFoundError

    folder = Path(name) if Path(name).is_dir() else download(name, revision, key)
    files = by_role(folder)
    no_column_twice(folder)
    datasets.disable_progress_bars()
    datasets.logging.set_verbosity(
        datasets.logging.CRITICAL
    )  # it tells the same failure again, in many lines
    with tempfile.TemporaryDirectory() as cache:
        try:
            found = datasets.load_dataset(str(folder), data_files=files, cache_dir=cache, keep_in_memory=True)
            return {str(split): part.to_list() for split, part in found.items()}
        except (DataFilesNotFoundError, datasets.data_files.EmptyDatasetError):
            raise UserError(f"{folder} holds no *.jsonl, *.parquet or *.csv", _HINT) from None
        except Exception as error:  # each format fails in its own library's way
            cause = error.__cause__ or error
            if isinstance(cause, OSError) and cause.errno in FULL:
                raise cause from None
            what = " ".join(str(cause).split())[:200]
            hint = f"{_HINT}; files that are not in hub layout are read with data.source: file"
            raise UserError(f"{folder} does not load: {type(cause).__name__}: {what}", hint) from None


def no_column_twice(folder: Path) -> None:
    """Raise UserError for a CSV file whose header has a column twice: `datasets` takes the first without a word."""
    for path in sorted(folder.rglob("*.csv")):
        with path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
            header = [name.strip() for name in next(csv.reader(file), [])]
        if twice := [name for name in header if name and header.count(name) > 1]:
            raise UserError(f"{path}: the column {twice[0]!r} occurs twice", "keep one of them")


def by_role(folder: Path) -> dict[str, list[str]] | None:
    """Role -> files named for it in any case, of a dataset whose README.md names no files; None where no name has a role.

    `datasets` knows only lower case, and takes all files for training where it knows none. Raises UserError for a name of two.
    """
    import huggingface_hub as hub

    card = folder / "README.md"
    try:
        if card.is_file() and "configs" in (hub.metadata_load(card) or {}):
            return None
    except Exception:  # `datasets` reads it too, and says what is wrong
        return None
    found: dict[str, list[str]] = {}
    others = []
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        if (
            path.suffix.lower() in SUFFIXES
            and path.is_file()
            and not any(part.startswith(".") for part in name.parts)
        ):
            named = set().union(*(roles.found(part) for part in name.with_suffix("").parts))
            if len(named) > 1:
                raise UserError(
                    f"{folder}: {roles.ambiguous(name.as_posix(), named)}", f"mv {path} to another name"
                )
            if named:
                found.setdefault(named.pop(), []).append(glob.escape(name.as_posix()))
            else:
                others.append(name.as_posix())
    if found and others:
        sampling.tell(f"left out of {folder}, without a role in their names: {few(others, 8)}")
    return found or None


def read(name: str, parts: Mapping[str, Sequence[dict[str, Any]]], languages: Sequence[str]) -> list[Row]:
    """All usable rows of `parts`, texts byte for byte; ids name split and row. Raises UserError on other columns."""
    rows, broken = [], []
    for split, records in parts.items():
        for number, record in enumerate(records, 1):
            place = f"{name}: {split} row {number}"
            missing = [column for column in COLUMNS if not isinstance(record.get(column), str)]
            if missing:
                raise UserError(
                    f"{place}: no text in column {', '.join(missing)}; it has {sorted(record)}", _HINT
                )
            try:
                rows.append(as_row(f"{split}-{number:05d}", record, languages))
            except ValueError as error:
                broken.append(f"{place}: {error}")
    if broken:
        sampling.tell(f"left out {len(broken)} broken rows; the first: {broken[0]:.300}")
    return rows


def as_row(identity: str, record: dict[str, Any], languages: Sequence[str]) -> Row:
    """A row of the contract, without tags; of the texts only a product is changed, to its catalog line's own bytes.

    Raises ValueError saying what is broken.
    """
    catalog, message = prompts.split(record["prompt"])
    row = Row(identity, record["language"], catalog, message, record["prompt"], record["completion"], {})
    if row.language not in languages:
        raise ValueError(f"language is {row.language!r:.60}, not one of {', '.join(languages)}")
    labels.check_catalog(catalog)
    labels.check_signs(catalog, message.replace("\r\n", "\n"))
    if (line := labels.line_of(row.intent.product, catalog)) != row.intent.product:
        row = replace(row, completion=replace(row.intent, product=line).canonical())
    return row
