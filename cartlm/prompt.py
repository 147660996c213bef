"""The one place where a row becomes token ids: training, engines and calibration all call it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from cartlm.errors import UserError

Tokenize = Callable[[str], list[int]]
"""Text to ids, adding no special token and reading none out of the text."""


def render(catalog: Sequence[str], message: str) -> str:
    """The prompt, byte for byte as in the published dataset (arXiv 2510.21970)."""
    return "Catalog:\n" + "\n".join(catalog) + "\n\nUser:\n" + message


def split(prompt: str) -> tuple[list[str], str]:
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
                f"the prompt {prompt[:40]!r}... holds a special token", "clean the row, then dvc repro data"
            )
        return [self.bos_id, *ids]

    def completion_ids(self, completion: str) -> list[int]:
        """Completion + EOS, as ids."""
        return [*self.tokenize(completion), self.eos_id]

    def example(self, prompt: str, completion: str, max_tokens: int) -> tuple[list[int], list[int]]:
        """`(input_ids, completion_mask)` of equal length; the mask is 1 on the completion and EOS.

        Raises UserError if the row is longer than `max_tokens`: a cut completion would train on nothing.
        """
        head, tail = self.prompt_ids(prompt), self.completion_ids(completion)
        if len(head) + len(tail) > max_tokens:
            raise UserError(
                f"a row has {len(head) + len(tail)} tokens, more than prompt.max_tokens={max_tokens}: "
                f"{prompt[-40:]!r}",
                "raise prompt.max_tokens in params.yaml, then dvc repro",
            )
        return head + tail, [0] * len(head) + [1] * len(tail)


def from_transformers(tokenizer: object, separator: str) -> PromptBuilder:
    """A builder over a transformers tokenizer. Raises UserError where BOS, EOS or pad are unusable."""
    bos, eos, pad = (getattr(tokenizer, f"{name}_token_id", None) for name in ("bos", "eos", "pad"))
    if bos is None or eos is None:
        raise UserError(
            f"the tokenizer has bos {bos} and eos {eos}", "set both in the base model's tokenizer"
        )
    if pad is not None and pad == eos:
        raise UserError(
            f"the tokenizer pads with its eos id {eos}, which hides EOS from the loss",
            "set prompt.pad_token in params.yaml to another special token",
        )

    def tokenize(text: str) -> list[int]:
        return list(tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"])  # type: ignore[operator]

    return PromptBuilder(tokenize, bos, eos, separator)
