"""Where a row becomes token ids: for training, calibration and every local engine.

Each engine brings its own tokenizer: `from_transformers` here, `LlamaCpp.tokenize` in cartlm/engines/llama_cpp.py.
Servers get text (cartlm/evaluation/remote.py); llama-imatrix tokenizes by itself and is checked against these ids
(cartlm/quantization/imatrix.py).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from cartlm.errors import UserError

Tokenize = Callable[[str], list[int]]
"""Text to ids, adding no special token and reading none out of the text."""

FORMAT_HEADER = 'Format: {"action": "add|remove", "product": "...", "quantity": 0}\n'
"""Asks the embedded base model, which was pretrained on many answer formats, for this task's (base/pretraining)."""


def render_prompt(catalog: Sequence[str], message: str) -> str:
    """The prompt, byte for byte as in the published dataset (arXiv 2510.21970)."""
    return "Catalog:\n" + "\n".join(catalog) + "\n\nUser:\n" + message


def split_prompt(prompt: str) -> tuple[list[str], str]:
    """Catalog lines and message of a rendered prompt. Raises ValueError for another form."""
    head, found, message = prompt.partition("\n\nUser:\n")
    if not found or not head.startswith("Catalog:\n"):
        raise ValueError("the prompt is not 'Catalog:', product lines, an empty line, 'User:', a message")
    return head.split("\n")[1:], message


@dataclass(frozen=True)
class PromptBuilder:
    """Token ids of prompts and completions.

    `tokenize` must neither add nor parse special tokens: BOS and EOS come from here alone, once each.
    Prompt + separator and completion are tokenized apart and joined, so the boundary is the same in
    training and in generation.
    """

    tokenize: Tokenize
    bos_id: int
    eos_id: int
    separator: str

    def prompt_ids(self, prompt: str) -> list[int]:
        """BOS + prompt + separator, as ids."""
        ids = self.tokenize(prompt + self.separator)
        if self.bos_id in ids or self.eos_id in ids:
            raise UserError(
                f"the prompt {prompt[:40]!r}... contains a special token",
                "clean the row, then dvc repro data",
            )
        return [self.bos_id, *ids]

    def completion_ids(self, completion: str) -> list[int]:
        """Completion + EOS, as ids."""
        return [*self.tokenize(completion), self.eos_id]

    def example(self, prompt: str, completion: str) -> tuple[list[int], list[int]]:
        """`(input_ids, completion_mask)` of equal length; the mask is 1 on the completion and EOS."""
        head, tail = self.prompt_ids(prompt), self.completion_ids(completion)
        return head + tail, [0] * len(head) + [1] * len(tail)


def special_tokens(tokenizer: Any, text: str) -> list[str]:
    """The special tokens of a transformers tokenizer in `text` that llama.cpp's tools would read as such.

    A special token that the tokenizer also makes of plain text, such as a line break, is not one of them.
    """
    names = []
    for token in tokenizer.added_tokens_decoder.values():
        name = str(token.content)
        if name not in text:
            continue
        # llama.cpp's converter takes these for special ones
        special_by_name = name.startswith("<|") and name.endswith("|>")
        plain = tokenizer(name, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        special = plain != [tokenizer.convert_tokens_to_ids(name)] if token.special else special_by_name
        if special:
            names.append(name)
    return names


def shared_ids(rows: Sequence[Any], merged: PromptBuilder, f16: PromptBuilder) -> list[list[int]]:
    """Each row's input ids, the same by the model folder's tokenizer and by the GGUF's.

    `rows` have `id`, `prompt` and `completion`. Raises UserError naming the first row that differs.
    """
    hint = (
        "see the base model's tokenizer files; the GGUF converter reads tokenizer.model before tokenizer.json"
    )
    if (merged.bos_id, merged.eos_id) != (f16.bos_id, f16.eos_id):
        raise UserError(
            f"the model has bos, eos {merged.bos_id}, {merged.eos_id}, its GGUF {f16.bos_id}, {f16.eos_id}",
            hint,
        )
    for row in rows:
        ours, theirs = (builder.example(row.prompt, row.completion) for builder in (merged, f16))
        if ours != theirs:
            at = len(os.path.commonprefix([ours[0], theirs[0]]))  # noqa: RUF071 - ids, not paths
            raise UserError(f"row {row.id}: model and GGUF tokenize it differently from token {at} on", hint)
    return [merged.prompt_ids(row.prompt) for row in rows]


def from_transformers(tokenizer: Any, separator: str) -> PromptBuilder:
    """A builder over a transformers tokenizer, whose bos, eos and pad the base stage has checked."""

    def tokenize(text: str) -> list[int]:
        return list(tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"])

    return PromptBuilder(tokenize, tokenizer.bos_token_id, tokenizer.eos_token_id, separator)
