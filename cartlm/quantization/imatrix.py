"""The importance matrix: mean squared activations on the calibration rows, by llama-imatrix.

llama-imatrix takes text and cuts its ids into chunks of equal length, each of which attends to itself alone. Rows of
one length are therefore passed together, with that length as the chunk: each row is one sequence, from BOS over prompt,
separator and completion to EOS, as in training. The special tokens are in the text by name, and the ids that the tool
will get are compared with the prompt builder's before it runs.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cartlm.errors import UserError
from cartlm.files import replacing, sha256
from cartlm.system import llama_cpp_build, processes

if TYPE_CHECKING:
    from cartlm.engines.llama_cpp import LlamaCpp

FAILURE = r"(?:error|failed|need at least)[^\n]*"


@dataclass(frozen=True)
class Chunks:
    """Rows of one length as one text: `count` chunks of `tokens` ids; ids after them are filler."""

    tokens: int
    count: int
    text: str


def chunk_rows(pairs: Sequence[tuple[str, str]], vocabulary: LlamaCpp, separator: str) -> list[Chunks]:
    """(prompt, completion) pairs as texts for the tool, shortest rows first.

    `vocabulary` is the model's (`llama_cpp.load_vocabulary`). Raises UserError for a row whose text gives the tool other
    ids than training had.
    """
    builder = vocabulary.prompt_builder(separator)
    bos = "" if builder.bos_id is None else vocabulary.token_name(builder.bos_id)
    eos = vocabulary.token_name(builder.eos_id)
    rows: defaultdict[int, list[tuple[str, list[int]]]] = defaultdict(list)
    for prompt, completion in pairs:
        ids = builder.prompt_ids(prompt) + builder.completion_ids(completion)
        # with a dummy prefix, the completion needs a space before it
        texts = [f"{bos}{prompt}{separator}{gap}{completion}{eos}" for gap in ("", " ")]
        text = next((text for text in texts if _as_tool(text, vocabulary)[1] == ids), texts[0])
        rows[len(ids)].append((text, ids))
    chunks = []
    for length, members in sorted(rows.items()):
        # the tool wants two chunks, and is told to take one
        padded = members if len(members) > 1 else members * 2
        text, ids = _as_tool("".join(text for text, _ in padded), vocabulary)
        if ids != [token for _, ids in padded for token in ids]:
            row = next((row for row, own in members if _as_tool(row, vocabulary)[1] != own), text)
            raise UserError(
                f"llama-imatrix tokenizes a calibration row differently: {row[-60:]!r}", "dvc repro data"
            )
        chunks.append(Chunks(length, len(members), text))
    return chunks


def _as_tool(text: str, vocabulary: LlamaCpp) -> tuple[str, list[int]]:
    """`text` without the BOS that the tool adds by itself, and the ids that the tool then has."""
    if vocabulary.adds_bos and vocabulary.bos_id is not None:
        text = text.removeprefix(vocabulary.token_name(vocabulary.bos_id))
    return text, vocabulary.tokenize(text, special=True)


def build_imatrix(
    source: Path, pairs: Sequence[tuple[str, str]], separator: str, folder: Path, threads: int
) -> Path:
    """The importance matrix of the GGUF file at `source` over (prompt, completion) pairs, a file in `folder`.

    Built once for the same source, rows and llama.cpp: the name has their hash. Raises UserError for a missing tool or a
    row that the tool tokenizes differently, OSError on a full disk.
    """
    tool = llama_cpp_build.tool("llama-imatrix")
    version = llama_cpp_build.build_info()["version"]
    key = repr((version, separator, list(pairs), sha256(source)))
    target = folder / f"{hashlib.sha256(key.encode()).hexdigest()[:16]}.gguf"
    if target.exists():
        return target
    from cartlm.engines import llama_cpp

    with llama_cpp.load_vocabulary(source) as vocabulary:
        groups = chunk_rows(pairs, vocabulary, separator)
    text = folder / "calibration.txt"
    with replacing(target) as temporary:
        for group in groups:
            text.write_text(group.text, encoding="utf-8", newline="\n")
            before: list[str | Path] = ["--in-file", temporary] if temporary.exists() else []
            processes.run_logged(
                [tool, "-m", source, "-f", text, "-o", temporary, *before, "-c", str(group.tokens),
                 "--chunks", str(group.count), "-t", str(threads), "-ngl", "0", "--parse-special", "--no-ppl"],
                log=folder / "log", writes=target, reason=FAILURE, hint=f"see {folder / 'log'}",
            )  # fmt: skip
    text.unlink()
    return target
