"""What `cartlm data check` says of the user's rows: every problem, which file became what, and the sizes that fit."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cartlm.data import files, sampling
from cartlm.engines.model_dir import load_tokenizer
from cartlm.errors import UserError
from cartlm.params import Params
from cartlm.task.prompt import special_tokens

TOKENIZERS = ("tokenizer.json", "tokenizer.model", "tokenizer_config.json")


def lines(path: Path, params: Params) -> Iterator[tuple[str, bool]]:
    """(line, whether it names a problem), of a file or folder. Raises UserError where there are no rows to look at."""
    found = files.gather(path, params.data.languages)
    yield from ((problem, True) for problem in found.problems)
    tokenizer, note = base_tokenizer(params)
    for file, rows in found.files.items() if tokenizer is not None else ():
        for row in rows:
            for token in special_tokens(tokenizer, row.prompt + row.completion)[:1]:
                yield f"{file}:{files.line_of(row)}: holds {token!r}, a special token of the base model", True
    for file, rows in found.files.items():
        kinds = Counter(f"{row.language} {row.intent.action}" for row in rows)
        yield (
            f"{file}: {len(rows)} sound rows" + "".join(f", {n} {kind}" for kind, n in sorted(kinds.items())),
            False,
        )
    yield from ((line, False) for line in [*found.notes, *found.repeats, *note])
    if any(found.parts.values()):
        yield from ((line, False) for line in sizes(found, params, str(path)))


def base_tokenizer(params: Params) -> tuple[Any, list[str]]:
    """The base model's tokenizer, or None and a note that says why special tokens are not looked for."""
    for folder in (Path(params.base.path), Path("models/base")):
        if any((folder / name).is_file() for name in TOKENIZERS):
            try:
                return load_tokenizer(folder), []
            except UserError as error:
                return None, [f"special tokens are not looked for: {error.message}"]
    return None, [f"special tokens are not looked for: {params.base.path} is not here yet (dvc repro base)"]


def sizes(found: files.Found, params: Params, name: str) -> Iterator[str]:
    """What drawing would leave out, and the sizes in params.yaml that would fit where those there do not."""
    pool = sampling.pool(found.parts, params.data)
    yield from pool.notes
    if short := sampling.shortage(pool, params.data, name):
        yield str(short)
