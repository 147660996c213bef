"""Rows of a published dataset: a hub id and revision, or a local folder in hub layout."""

from __future__ import annotations

import glob
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from cartlm import hub
from cartlm.data import records, roles, sampling
from cartlm.data.config import Data
from cartlm.data.near_duplicates import repeats
from cartlm.data.tables import PUBLISHED, read_table
from cartlm.errors import FULL, UserError
from cartlm.task import prompt as prompts
from cartlm.task.rows import Row
from cartlm.text import few

SUFFIXES = (".csv", ".json", ".jsonl", ".parquet")
FILES = ("README.md", *(f"{folder}*{suffix}" for folder in ("", "data/") for suffix in SUFFIXES))
"""What is downloaded of a dataset; README.md assigns files to splits where their names do not."""
_HINT = "set data.path in params.yaml to a dataset with the columns prompt, completion and language"


def splits(params: Data) -> sampling.Drawn:
    """Splits of the dataset in `data.path`, drawn with `data.seed`; notes on each split go to stderr.

    A split's name decides its role (cartlm/data/roles.py). Without a test, test is validation (the paper's protocol: 2,700
    and 300 rows). Broken and contradicting rows are left out and counted on stderr. Raises UserError for a dataset
    that is missing, has other columns, a line that cannot be read, or too few rows.
    """
    if params.path is None:
        raise UserError("data.source=hub needs data.path", _HINT)
    parts: dict[str, list[Row]] = {}
    for split, found in load_dataset(params.path, params.revision).items():
        role = roles.role_of_split(split, params.path)
        sampling.note(f"{params.path}: the split {split} ({len(found):,} rows): {role}")
        parts.setdefault(role, []).extend(read_rows(params.path, split, found, params.languages))
    return sampling.draw_splits(without_contradictions(parts, params.path), params, params.path)


def held_out(params: Data) -> list[Row]:
    """All usable rows of `data.held_out`; none where it is null. Raises UserError as `splits` does."""
    if params.held_out is None:
        return []
    rows: list[Row] = []
    for split, found in load_dataset(params.held_out, params.held_out_revision, "held_out").items():
        rows += read_rows(params.held_out, split, found, params.languages)
    if not rows:
        what = f"data.held_out={params.held_out} has no usable row"
        raise UserError(what, "set data.held_out to null in params.yaml")
    rows = without_contradictions({roles.TEST: rows}, params.held_out)[roles.TEST]
    return [replace(row, id=f"published-{row.id}") for row in rows]


def without_contradictions(parts: Mapping[str, list[Row]], name: str) -> dict[str, list[Row]]:
    """The rows of each role without those that contradict another one; stderr counts them and names the first."""
    found = [repeat for repeat in repeats(parts) if not repeat.same_label]
    wrong = {repeat.row.id for repeat in found}  # of one role both rows, of two the later one
    wrong |= {repeat.first.id for repeat in found if repeat.role == repeat.first_role}
    for first in found[:1]:
        example = f"{first.row.id} has the catalog and message of {first.first.id}"
        what = f"{len(wrong)} rows of {name} that have another label elsewhere"
        sampling.note(f"left out {what}; the first: {example}")
    return {role: [row for row in rows if row.id not in wrong] for role, rows in parts.items()}


def load_dataset(name: str, revision: str | None, key: str = "path") -> dict[str, list[dict[str, Any]]]:
    """Split -> its records, of a hub id or a folder in hub layout. Raises UserError; `data.{key}` names it."""
    import datasets

    folder = Path(name)
    if not folder.is_dir():
        folder = hub.download("dataset", name, revision, FILES, f"data.{key}")
    by_role = files_by_role(folder)
    try:
        with tempfile.TemporaryDirectory() as cache:
            builder = datasets.load_dataset_builder(str(folder), data_files=by_role, cache_dir=cache)
        files = builder.config.data_files
    except Exception as error:  # no files, or whatever README.md may say
        if isinstance(error, OSError) and error.errno in FULL:
            raise
        raise UserError(f"{folder} does not load: {str(error)[:200]}", _HINT) from None
    found: dict[str, list[dict[str, Any]]] = {}
    for split, path in [(split, path) for split, paths in files.items() for path in paths]:
        table = read_table(Path(path))
        for note in table.notes:
            sampling.note(f"{path}: {note}")
        for line, record in table.records:
            if isinstance(record, str):
                raise UserError(f"{path}:{line}: {record}", f"mend it in a copy that data.{key} names")
            found.setdefault(str(split), []).append(record)
    return found


def files_by_role(folder: Path) -> dict[str, list[str]] | None:
    """Role -> files named for it in any case; None where README.md assigns files to splits, or no name has a role.

    `datasets` knows lower case only, and trains on all files where it knows none. Raises UserError for a name of two roles.
    """
    from huggingface_hub import metadata_load

    card = folder / "README.md"
    try:
        if card.is_file() and "configs" in (metadata_load(card) or {}):
            return None
    except Exception:  # `datasets` reads it too, and raises what is wrong
        return None
    by_role: dict[str, list[str]] = {}
    others: list[str] = []
    for place in filter(Path.is_dir, (folder, folder / "data")):
        found = roles.survey(place, SUFFIXES)
        if found.problems:
            raise UserError(f"{folder}: {found.problems[0]}", "rename it in a copy of the dataset")
        for file in found.files:
            name = file.path.relative_to(folder).as_posix()
            (by_role.setdefault(file.role, []) if file.named else others).append(name)
    if by_role and others:
        sampling.note(f"left out of {folder}, without a role in their names: {few(others, 8)}")
    return {role: [glob.escape(name) for name in names] for role, names in by_role.items()} or None


def read_rows(name: str, split: str, found: Sequence[dict[str, Any]], languages: Sequence[str]) -> list[Row]:
    """All usable rows of a split, texts as the file has them (line ends within CSV cells as \\n); ids name split and row. Raises UserError for other columns."""
    rows, broken = [], []
    for number, record in enumerate(found, 1):
        place = f"{name}: {split} row {number}"
        if missing := [column for column in PUBLISHED if not isinstance(record.get(column), str)]:
            what = f"no text in column {', '.join(missing)}; it has {sorted(record)}"
            raise UserError(f"{place}: {what}", _HINT)
        try:
            rows.append(_as_row(f"{split}-{number:05d}", record, languages))
        except ValueError as error:
            broken.append(f"{place}: {error}")
    if broken:
        sampling.note(f"left out {len(broken)} broken rows; the first: {broken[0]:.300}")
    return rows


def _as_row(id: str, record: dict[str, Any], languages: Sequence[str]) -> Row:
    """A row without tags; only a product is changed, to its catalog line's own bytes. Raises ValueError."""
    catalog, message = prompts.split_prompt(record["prompt"])
    row = Row(id, record["language"], catalog, message, record["prompt"], record["completion"], {})
    records.check_language(row.language, languages)
    records.check_texts(catalog, message.replace("\r\n", "\n"))
    if (line := records.catalog_line(row.intent.product, catalog)) != row.intent.product:
        row = replace(row, completion=replace(row.intent, product=line).canonical())
    return row
