"""What `cartlm data check` says of the user's rows: every problem, which file became what, and the sizes that fit."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from cartlm.data import drawing, files
from cartlm.errors import UserError
from cartlm.params import Params
from cartlm.training import base
from cartlm.training.examples import special_tokens, with_special

TOKENIZERS = ("tokenizer.json", "tokenizer.model", "tokenizer_config.json")


def lines(path: Path, params: Params) -> Iterator[tuple[str, bool]]:
    """(line, whether it names a problem), of a file or folder. Raises UserError where there are no rows to look at."""
    found = files.gather(path, params.data.languages)
    yield from ((problem, True) for problem in found.problems)
    tokens, note = special(params)
    for file, rows in found.files.items():
        for row, token in with_special(rows, tokens):
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


def special(params: Params) -> tuple[tuple[str, ...], list[str]]:
    """The base model's special tokens, or none and a note that says why they are not looked for."""
    for folder in (Path(params.base.path), Path("models/base")):
        if any((folder / name).is_file() for name in TOKENIZERS):
            try:
                return special_tokens(base.load_tokenizer(folder)), []
            except UserError as error:
                return (), [f"special tokens are not looked for: {error.message}"]
    return (), [f"special tokens are not looked for: {params.base.path} is not here yet (dvc repro base)"]


def sizes(found: files.Found, params: Params, name: str) -> Iterator[str]:
    """What drawing would leave out, and the sizes in params.yaml that would fit where those there do not."""
    pool = drawing.pool(found.parts, params.data)
    yield from pool.notes
    if short := drawing.shortage(pool, params.data, name):
        yield str(short)
