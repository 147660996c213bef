"""The user's own rows: files in two layouts, each row checked, every problem with its file and line.

The columns decide the layout: catalog, message, action, product, quantity, language; or the published dataset's prompt,
completion, language. Other columns are ignored. A catalog is a list, or text with one product a line or separated by " | ".
"""

from __future__ import annotations

import hashlib
import shlex
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cartlm.data import records, roles, sampling
from cartlm.data.config import Data
from cartlm.data.near_duplicates import repeats
from cartlm.data.tables import SUFFIXES, Table, read_table
from cartlm.engines.model_dir import load_tokenizer
from cartlm.errors import UserError
from cartlm.files import sha256
from cartlm.task.prompt import special_tokens
from cartlm.task.rows import Row

_HINT = f"set data.path in params.yaml to a file ({', '.join(SUFFIXES)}), or a folder of such files"


@dataclass(frozen=True)
class Gathered:
    """The sound rows of each file and of each role, problems (each with file and line) and notes.

    `held_out` names rows of training or validation that are left out because they are evaluated on as well.
    """

    files: dict[Path, list[Row]] = field(default_factory=dict)
    parts: dict[str, list[Row]] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    held_out: list[str] = field(default_factory=list)


def splits(params: Data) -> sampling.Drawn:
    """Splits of the rows in `data.path`, drawn with `data.seed`; notes go to stderr.

    In a folder each file's name decides its role (cartlm/data/roles.py). Raises UserError naming the first problem, or
    where there are too few rows.
    """
    if params.path is None:
        raise UserError("data.source=file needs data.path", _HINT)
    gathered = gather(Path(params.path), params.languages)
    for line in gathered.notes:
        sampling.note(line)
    if problems := gathered.problems:
        more = f" (and {len(problems) - 1} more problems)" if len(problems) > 1 else ""
        raise UserError(problems[0] + more, f"cartlm data check {shlex.quote(params.path)}")
    return sampling.draw_splits(gathered.parts, params, params.path)


def gather(path: Path, languages: Sequence[str]) -> Gathered:
    """All rows of a file or folder, and everything that is wrong with them. Raises UserError where there is no file.

    A file that is named by itself is for training: validation and calibration rows are drawn from it, and without a test the
    validation rows are also the test.
    """
    gathered = Gathered()
    tables: dict[roles.File, Table] = {}
    for file in _files(path, gathered):
        try:
            tables[file] = read_table(file.path)
        except UserError as error:  # the other files are still checked
            gathered.problems.append(str(error))
    found = [record for table in tables.values() for _, record in table.records]
    barred = records.products_with_bars(record for record in found if isinstance(record, dict))
    places: dict[str, str] = {}
    for file, table in tables.items():
        gathered.notes.extend(f"{file.name}: {note}" for note in table.notes)
        rows = gathered.files.setdefault(file.path, [])
        for line, record in table.records or [(1, "the file holds no rows")]:
            place = f"{file.path}:{line}"
            try:
                if isinstance(record, str):
                    raise ValueError(record)
                rows.append(records.as_row(f"{file.name}-{line:05d}", record, languages, barred))
                places[rows[-1].id] = place
            except ValueError as error:
                gathered.problems.append(f"{place}: {error}")
        gathered.parts.setdefault(file.role, []).extend(rows)
    for repeat in repeats(gathered.parts):
        what = f"{places[repeat.row.id]}: the same catalog and message as {places[repeat.first.id]}"
        if not repeat.same_label:
            gathered.problems.append(f"{what}, with another label")
        elif repeat.role == repeat.first_role:
            gathered.problems.append(what)
        else:
            gathered.held_out.append(f"{what}: left out of {repeat.role}")
    return gathered


def _files(path: Path, gathered: Gathered) -> list[roles.File]:
    if path.is_dir():
        folder = roles.survey(path, SUFFIXES)
        if not folder.files and not folder.problems:
            holds = f"; it holds {', '.join(folder.left_out[:8])}" if folder.left_out else ""
            raise UserError(f"{path} holds no {' or '.join(SUFFIXES)}{holds}", _HINT)
        gathered.notes.extend(folder.notes())
        gathered.problems.extend(f"{path}: {problem}" for problem in folder.problems)
        return folder.files
    if not path.exists():
        raise UserError(f"data.path={path} does not exist", _HINT)
    if path.suffix.lower() not in SUFFIXES:
        raise UserError(f"{path} is neither {' nor '.join(SUFFIXES)}", _HINT)
    if roles.roles_in_name(path.stem) - {roles.TRAIN}:
        gathered.notes.append(f"{path.name}: all splits are drawn from it, because it is named by itself")
    return [roles.File(path, path.name, roles.TRAIN, False)]


def check_report(path: Path, data: Data, base: Path) -> Iterator[tuple[str, bool]]:
    """`cartlm data check`: (line, whether it is a problem) for a file or folder. Raises UserError without rows."""
    gathered = gather(path, data.languages)
    yield from ((problem, True) for problem in gathered.problems)
    yield from _special_tokens(gathered, base)
    for file, rows in gathered.files.items():
        kinds = Counter(f"{row.language} {row.intent.action}" for row in rows)
        counts = [f"{count} {kind}" for kind, count in sorted(kinds.items())]
        yield ", ".join([f"{file}: {len(rows)} sound rows", *counts]), False
    yield from ((line, False) for line in [*gathered.notes, *gathered.held_out])
    if any(gathered.parts.values()):
        pool = sampling.make_pool(gathered.parts, data)
        yield from ((line, False) for line in pool.notes)
        if short := sampling.shortage(pool, data, str(path)):
            yield str(short), False


def _special_tokens(gathered: Gathered, base: Path) -> Iterator[tuple[str, bool]]:
    """Rows with a special token of the base model, or why none is looked for."""
    made = Path("models/base")
    try:
        tokenizer = load_tokenizer(made if not base.is_dir() and made.is_dir() else base)
    except UserError as error:
        yield f"special tokens are not checked: {error.message} (dvc repro base)", False
        return
    for file, rows in gathered.files.items():
        for row in rows:
            for token in special_tokens(tokenizer, row.prompt + row.completion)[:1]:
                line = int(row.id.rpartition("-")[2])
                yield f"{file}:{line}: holds {token!r}, a special token of the base model", True


def source_digest(data: Data) -> str | None:
    """SHA-256 (16 hex digits) of the file or folder of `data.path`, names and contents; None for a source without one."""
    path = Path(data.path or "")
    if data.source in ("rules", "openai") or not data.path or not path.exists():
        return None
    files = [path] if path.is_file() else sorted(each for each in path.rglob("*") if each.is_file())
    return hashlib.sha256(repr([(each.name, sha256(each)) for each in files]).encode()).hexdigest()[:16]
