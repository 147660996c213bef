"""The importance matrix: mean squared activations on the calibration rows, by llama-imatrix.

llama-imatrix takes text and cuts its ids into chunks of equal length, each of which attends to itself alone. Rows of
one length are therefore passed together, with that length as the chunk: each row is one sequence, from BOS over prompt,
separator and completion to EOS, as in training. The special tokens are in the text by name, and the ids that the tool
will get are compared with the prompt builder's before it runs.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cartlm.errors import UserError
from cartlm.files import replacing
from cartlm.system import llama_cpp_build, processes
from cartlm.task.prompt import PromptBuilder

LEAST_TOKENS = 16  # llama-imatrix ignores shorter batches
FAILURE = r"(?:error|failed|need at least)[^\n]*"


@dataclass(frozen=True)
class Vocabulary:
    """The tokenizer of a GGUF file, for the prompt builder and as llama-imatrix uses it."""

    builder: PromptBuilder
    bos: str  # the names of the special tokens, such as <s>
    eos: str
    adds_bos: bool  # the tool puts BOS before the text by itself
    tokenize_as_tool: Callable[[str], list[int]]  # special tokens are read out of the text

    def tool_text(self, text: str) -> str:
        """`text` without the BOS that the tool adds."""
        return text.removeprefix(self.bos) if self.adds_bos else text


@dataclass(frozen=True)
class Chunks:
    """Rows of one length as one text: `count` chunks of `tokens` ids; ids after them are filler."""

    tokens: int
    count: int
    text: str


@contextmanager
def vocabulary(source: Path, separator: str) -> Iterator[Vocabulary]:
    """The tokenizer of the GGUF file at `source`, without its weights. Raises UserError for a broken file."""
    from cartlm.engines import llama_cpp

    with llama_cpp.load_vocabulary(source) as engine:
        yield Vocabulary(
            builder=PromptBuilder(engine.tokenize, engine.bos_id, engine.eos_id, separator),
            bos=engine.token_name(engine.bos_id),
            eos=engine.token_name(engine.eos_id),
            adds_bos=engine.adds_bos,
            tokenize_as_tool=lambda text: engine.tokenize(text, special=True),
        )


def chunk_rows(pairs: Sequence[tuple[str, str]], vocab: Vocabulary) -> list[Chunks]:
    """(prompt, completion) pairs as texts for the tool, shortest rows first.

    Raises UserError for a row whose text gives the tool other ids than training had.
    """
    rows: defaultdict[int, list[tuple[str, list[int]]]] = defaultdict(list)
    for prompt, completion in pairs:
        ids = vocab.builder.prompt_ids(prompt) + vocab.builder.completion_ids(completion)
        if len(ids) < LEAST_TOKENS:
            raise UserError(
                f"a calibration row has {len(ids)} tokens, too few for llama-imatrix", "dvc repro data"
            )
        rows[len(ids)].append((_row_text(prompt, completion, ids, vocab), ids))
    chunks = []
    for length, members in sorted(rows.items()):
        # the tool wants two chunks, and is told to take one
        padded = members if len(members) > 1 else members * 2
        text = vocab.tool_text("".join(text for text, _ in padded))
        if vocab.tokenize_as_tool(text) != [token for _, ids in padded for token in ids]:
            raise UserError(
                f"llama-imatrix tokenizes calibration rows differently: {text[-60:]!r}", "dvc repro data"
            )
        chunks.append(Chunks(length, len(members), text))
    return chunks


def _row_text(prompt: str, completion: str, ids: list[int], vocab: Vocabulary) -> str:
    """One row as text that gives the tool `ids`; with a dummy prefix, the completion needs a space before it."""
    for gap in ("", " "):
        text = f"{vocab.bos}{prompt}{vocab.builder.separator}{gap}{completion}{vocab.eos}"
        if vocab.tokenize_as_tool(vocab.tool_text(text)) == ids:
            return text
    raise UserError(
        f"llama-imatrix tokenizes a calibration row differently: {prompt[-60:]!r}", "dvc repro data"
    )


def build_imatrix(
    source: Path, pairs: Sequence[tuple[str, str]], separator: str, folder: Path, threads: int
) -> Path:
    """The importance matrix of the GGUF file at `source` over (prompt, completion) pairs, a file in `folder`.

    Built once for the same source, rows and llama.cpp: the name has their hash. Raises UserError for a missing tool or a
    row that the tool tokenizes differently, OSError on a full disk.
    """
    tool = llama_cpp_build.tool("llama-imatrix")
    version = llama_cpp_build.build_info()["version"]
    digest = hashlib.sha256(repr((version, separator, list(pairs))).encode())
    with source.open("rb") as file:
        digest.update(hashlib.file_digest(file, "sha256").digest())
    target = folder / f"{digest.hexdigest()[:16]}.gguf"
    if target.exists():
        return target
    with vocabulary(source, separator) as vocab:
        groups = chunk_rows(pairs, vocab)
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
