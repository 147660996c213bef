"""Rows as the trainer gets them: token ids and a mask, made by the one prompt builder and checked one by one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from cartlm.errors import UserError
from cartlm.task.prompt import PromptBuilder, special_tokens
from cartlm.task.rows import Row

IGNORED = -100
"""The label of a token that takes no part in the loss (torch.nn.CrossEntropyLoss's ignore_index)."""


def check_text(rows: Iterable[Row], tokenizer: Any, file: str) -> None:
    """No row of `file` holds a special token, which llama.cpp's tools read out of text. Raises UserError naming both."""
    for row in rows:
        if found := special_tokens(tokenizer, row.prompt + row.completion):
            raise UserError(
                f"{file}: row {row.id} holds {found[0]}, a special token of the base model",
                "change that row where it comes from, then dvc repro",
            )


def examples(rows: Iterable[Row], builder: PromptBuilder, max_tokens: int) -> list[dict[str, list[int]]]:
    """`input_ids` and `completion_mask` (1: in the loss) of each row.

    Raises UserError naming all rows longer than `max_tokens`: none is ever cut.
    """
    encoded, too_long = [], {}
    for row in rows:
        ids, mask = builder.example(row.prompt, row.completion)
        encoded.append({"input_ids": ids, "completion_mask": mask})
        if len(ids) > max_tokens:
            too_long[row.id] = len(ids)
    if too_long:
        longest = max(too_long.values())
        raise UserError(
            f"{len(too_long)} rows are longer than prompt.max_tokens={max_tokens} (the longest has {longest} tokens): "
            f"{', '.join(list(too_long)[:3])}{', ...' if len(too_long) > 3 else ''}",
            f"set prompt.max_tokens to {longest} or more in params.yaml, then dvc repro",
        )
    return encoded


def check(
    rows: Sequence[Row], held: Sequence[Mapping[str, list[int]]], builder: PromptBuilder, tokenizer: Any
) -> None:
    """Compare what the trainer holds (`input_ids`, `labels`) with the rows it was made of, in their order.

    Of every row: the ids are those of prompt and completion, the labels those of the completion, which decode to
    it; nothing was cut, padded or dropped. Raises UserError naming the row.
    """
    if len(held) != len(rows):
        raise UserError(
            f"the trainer holds {len(held)} rows of {len(rows)}", "report this: rows were dropped"
        )
    for row, example in zip(rows, held, strict=True):
        prompt, completion = builder.prompt_ids(row.prompt), builder.completion_ids(row.completion)
        decoded = tokenizer.decode(
            completion[:-1], skip_special_tokens=False, clean_up_tokenization_spaces=False
        )
        fault = ""
        if example["input_ids"] != prompt + completion:
            fault = "its ids are not those of its prompt and completion"
        elif example["labels"] != [IGNORED] * len(prompt) + completion:
            fault = "its labels are not the ids of its completion"
        elif decoded != row.completion:
            fault = f"its labels decode to {decoded!r:.80}, not to the completion {row.completion!r:.80}"
        if fault:
            raise UserError(f"row {row.id}: {fault}", "check the base model's tokenizer, then dvc repro base")
