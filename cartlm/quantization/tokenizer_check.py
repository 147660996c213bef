"""Whether a base model's tokenizer reads rows as training, parity and llama.cpp need it, on probe rows."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cartlm.engines.model_dir import HINT, load_tokenizer
from cartlm.errors import UserError
from cartlm.quantization import gguf
from cartlm.quantization.imatrix import chunk_rows
from cartlm.system import llama_cpp_build
from cartlm.task import rows as row_files
from cartlm.task.intent import Intent
from cartlm.task.prompt import PromptBuilder, from_transformers, shared_ids, special_tokens

LINES = {
    "english": "Don't-Worry Tea & Co. 20 x 1.5 g (box)",
    "croatian": "Čokoladni štrudl s đumbirom, žele i ćevapi 500 ml",
    "spanish": "Jalapeño añejo, ¿pingüino? ¡Té rápido! (½ kg)",
}


def probes(languages: Sequence[str]) -> list[row_files.Row]:
    """A row a language, with its letters, digits, signs and quotes in message and product."""
    lines = [LINES[name] for name in languages]
    return [
        row_files.make(f"probe-{name}", name, lines, f"  add 12 {LINES[name]} please!\n", Intent("add", LINES[name], 12), {})
        for name in languages
    ]  # fmt: skip


def check(
    folder: Path, separator: str, languages: Sequence[str], imatrix: bool, log: Path, path: str
) -> bool:
    """Whether llama.cpp is installed and was asked too. Raises UserError where rows would not be read as training needs.

    `imatrix`: rows are also read as llama-imatrix will. `log` gets the converter's output; errors name the model by `path`.
    """
    tokenizer = load_tokenizer(folder, HINT)
    builder = from_transformers(tokenizer, separator)
    if found := special_tokens(tokenizer, separator):
        raise UserError(
            f"prompt.separator={separator!r} holds the special token {found[0]} of {path}",
            'set prompt.separator in params.yaml to plain text such as "\\n"',
        )
    for kind in ("bos", "eos", "pad"):
        name, number = getattr(tokenizer, f"{kind}_token"), getattr(tokenizer, f"{kind}_token_id")
        if name is None:  # no bos
            continue
        if number in builder.tokenize(f"a {name} b") or number in builder.tokenize(name):
            hint = "set prompt.pad_token in params.yaml to a special token" if kind == "pad" else HINT
            raise UserError(f"{kind}_token {name!r} of {path} is plain text to its tokenizer", hint)
    rows = probes(languages)
    for row in rows:
        for text in (row.prompt + separator, row.completion):
            ids = builder.tokenize(text)
            decoded = tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
            if decoded != text:
                at = len(os.path.commonprefix([decoded, text]))  # noqa: RUF071 - texts, not paths
                raise UserError(
                    f"the tokenizer of {path} gives {decoded[at:][:30]!r} back for {text[at:][:30]!r} ({row.language})",
                    "set base.path to a model that can spell it, or data.languages to the others",
                )
    check_pieces(folder, tokenizer, path)
    return check_gguf(folder, builder, rows, imatrix, log, path)


def check_pieces(folder: Path, tokenizer: Any, path: str) -> None:
    """tokenizer.model, which the converter reads first, lists the tokenizer's own tokens. Raises UserError."""
    if not (folder / "tokenizer.model").exists():
        return
    from sentencepiece import SentencePieceProcessor

    try:
        pieces = SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
    except (RuntimeError, OSError) as error:
        raise UserError(f"{path}: tokenizer.model is no SentencePiece model ({error!s:.100})", HINT) from None
    added = tokenizer.added_tokens_decoder
    for number in range(pieces.vocab_size()):
        token, piece = tokenizer.convert_ids_to_tokens(number), pieces.IdToPiece(number)
        if number not in added and token != piece:
            raise UserError(
                f"{path}: {number} is {piece!r} in tokenizer.model and {token!r} in tokenizer.json",
                "remove the file that is not the model's; llama.cpp reads tokenizer.model, transformers tokenizer.json",
            )


def check_gguf(
    folder: Path, builder: PromptBuilder, rows: Sequence[row_files.Row], imatrix: bool, log: Path, path: str
) -> bool:  # fmt: skip
    """Whether llama.cpp is installed; if so its GGUF of the vocabulary reads `rows` alike. Raises UserError."""
    try:
        llama_cpp_build.prefix()
    except UserError:
        return False
    from cartlm.engines import llama_cpp

    with tempfile.TemporaryDirectory() as temporary:
        file = Path(temporary) / "vocabulary.gguf"
        gguf.convert_vocabulary(folder, file, log, path)
        with llama_cpp.load_vocabulary(file) as vocabulary:
            shared_ids(rows, builder, vocabulary.prompt_builder(builder.separator))
            if builder.bos_id is None and vocabulary.adds_bos:
                raise UserError(
                    f"the tokenizer of {path} has no bos token, and llama.cpp's tools would put one in front of each row",
                    "set bos_token, or add_bos_token to false, in its tokenizer_config.json",
                )
            if imatrix:
                # without the line break at the end: GPT-2's pre-tokenizer (SmolLM) joins two of them, but not before a sign
                pairs = [(row.prompt.rstrip(), row.completion) for row in rows]
                chunk_rows(pairs, vocabulary, builder.separator)
    return True
