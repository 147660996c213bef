"""Folders of models: which files make one, and replacing one as a whole."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

WEIGHTS = ("model*.safetensors", "model.safetensors.index.json")
CONFIGS = ("config.json", "generation_config.json")
TOKENIZER = (
    "tokenizer.json", "tokenizer.model", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
    "vocab.json", "merges.txt",
)  # fmt: skip
"""Names of the files that are read; a folder's other files (code, pickles, cards) are never copied."""


def copy(source: Path, target: Path, patterns: tuple[str, ...]) -> list[str]:
    """Copy the files of `source` that match, in name order; returns their names."""
    names = sorted({path.name for pattern in patterns for path in source.glob(pattern) if path.is_file()})
    for name in names:
        shutil.copyfile(source / name, target / name)
    return names


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary folder beside `path` that takes its place at the end, or is removed on an error.

    What an earlier, killed run left behind is removed first.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    for stale in path.parent.glob(f".tmp-*-{path.name}"):
        shutil.rmtree(stale, ignore_errors=True)
    temporary = path.with_name(f".tmp-{os.getpid()}-{path.name}")
    temporary.mkdir()
    try:
        yield temporary
        for file in temporary.iterdir():
            file.chmod(0o644)  # safetensors writes 0600, which another user's container cannot read
        shutil.rmtree(path, ignore_errors=True)
        os.replace(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
