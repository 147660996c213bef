"""Where a row becomes token ids: for training, calibration and every local engine.

Each engine brings its own tokenizer: `from_transformers` here, `LlamaCpp.tokenize` in cartlm/engines/llama_cpp.py.
Servers get text (cartlm/evaluation/remote.py); llama-imatrix tokenizes by itself and is checked against these ids
(cartlm/quantization/imatrix.py).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from cartlm.errors import UserError

Tokenize = Callable[[str], list[int]]
"""Text to ids, adding no special token and reading none out of the text."""

END_TOKENS = ("<|im_end|>", "<|endoftext|>", "<|end_of_text|>", "<|eot_id|>", "<|eom_id|>", "<end_of_turn>")
"""Special tokens that end an answer as EOS does, where the vocabulary has them; llama.cpp's server stops at them too.

Training appends EOS alone. They are told by name, as llama.cpp does (src/llama-vocab.cpp): a GGUF file lists one EOS.
"""

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

    `tokenize` must neither add nor parse special tokens: BOS and EOS come from here alone, once each. `bos_id` is None
    where the tokenizer has none (Qwen): ids then begin with the text. It may be `eos_id` (SmolLM2). `end_ids`: EOS, and
    END_TOKENS of the vocabulary.
    Prompt + separator and completion are tokenized apart and joined, so the boundary is the same in
    training and in generation.
    """

    tokenize: Tokenize
    bos_id: int | None
    eos_id: int
    separator: str
    end_ids: frozenset[int] = frozenset()

    def prompt_ids(self, prompt: str) -> list[int]:
        """BOS + prompt + separator, as ids. Raises UserError where the text has a special token."""
        ids = self.tokenize(prompt + self.separator)
        if not {self.bos_id, self.eos_id, *self.end_ids}.isdisjoint(ids):
            raise UserError(
                f"the prompt {prompt[:40]!r}... contains a special token",
                "clean the row, then dvc repro data",
            )
        return ids if self.bos_id is None else [self.bos_id, *ids]

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
    return [name for name in _special_names(tokenizer) if name in text]


@lru_cache(maxsize=4)  # Gemma has 6,400 added tokens
def _special_names(tokenizer: Any) -> tuple[str, ...]:
    names = []
    for number, token in tokenizer.added_tokens_decoder.items():
        name = str(token.content)
        plain = tokenizer(name, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        if plain != [number] if token.special else _special_by_name(name):
            names.append(name)
    return tuple(names)


def _special_by_name(name: str) -> bool:
    """Whether llama.cpp's converter takes an added token for a special one (does_token_look_special in its base.py)."""
    brackets = (("<|", "|>"), ("<｜", "｜>"), ("<unused", ">"))
    enclosed = any(name.startswith(start) and name.endswith(end) for start, end in brackets)
    return enclosed or name in ("<pad>", "<mask>", "<2mass>", "[@BOS@]")


def end_ids(eos_id: int, find: Callable[[str], int | None]) -> frozenset[int]:
    """What ends an answer: EOS, and those of END_TOKENS that `find`, token to id, knows in the vocabulary."""
    found = map(find, END_TOKENS)
    return frozenset({eos_id, *(token for token in found if token is not None)})


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
    if merged.end_ids != f16.end_ids:
        ours, theirs = sorted(merged.end_ids), sorted(f16.end_ids)
        raise UserError(f"the model ends an answer at {ours}, its GGUF at {theirs}", hint)
    for row in rows:
        own, other = (builder.example(row.prompt, row.completion) for builder in (merged, f16))
        if own != other:
            at = len(os.path.commonprefix([own[0], other[0]]))  # noqa: RUF071 - ids, not paths
            raise UserError(f"row {row.id}: model and GGUF tokenize it differently from token {at} on", hint)
    return [merged.prompt_ids(row.prompt) for row in rows]


def from_transformers(tokenizer: Any, separator: str) -> PromptBuilder:
    """A builder over a transformers tokenizer, whose bos, eos and pad the base stage has checked."""

    def tokenize(text: str) -> list[int]:
        return list(tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"])

    bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
    ends = end_ids(eos, tokenizer.backend_tokenizer.token_to_id)
    return PromptBuilder(tokenize, bos, eos, separator, ends)
