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
    made, long, longest = [], [], 0
    for row in rows:
        ids, mask = builder.example(row.prompt, row.completion, max_tokens=10**9)
        made.append({"input_ids": ids, "completion_mask": mask})
        if len(ids) > max_tokens:
            long.append(row.id)
            longest = max(longest, len(ids))
    if long:
        raise UserError(
            f"{len(long)} rows are longer than prompt.max_tokens={max_tokens} (the longest has {longest} tokens): "
            f"{', '.join(long[:3])}{', ...' if len(long) > 3 else ''}",
            f"set prompt.max_tokens to {longest} or more in params.yaml, then dvc repro",
        )
    return made


def check(
    rows: Sequence[Row],
    given: Sequence[Mapping[str, Sequence[int]]],
    builder: PromptBuilder,
    tokenizer: Any,
    max_tokens: int,
) -> None:
    """What the trainer holds (`input_ids`, `labels`), against the rows it was made of, in their order.

    Of every row: exactly one BOS, at position 0; the labels are the ids of one run at the end that decodes to
    the completion and ends with EOS; nothing was cut, padded or dropped. Raises UserError naming the row.
    """
    if len(given) != len(rows):
        raise UserError(
            f"the trainer holds {len(given)} rows of {len(rows)}", "report this: rows were dropped"
        )
    for row, example in zip(rows, given, strict=True):
        if fault := _fault(row, example["input_ids"], example["labels"], builder, tokenizer, max_tokens):
            raise UserError(f"row {row.id}: {fault}", "check the base model's tokenizer, then dvc repro base")


def _fault(
    row: Row,
    ids: Sequence[int],
    labels: Sequence[int],
    builder: PromptBuilder,
    tokenizer: Any,
    max_tokens: int,
) -> str:
    """What is wrong with one row; empty if nothing is."""
    if len(ids) != len(labels) or len(ids) > max_tokens:
        return f"{len(ids)} ids, {len(labels)} labels, at most {max_tokens} allowed"
    if ids[0] != builder.bos_id or list(ids).count(builder.bos_id) != 1:
        return f"{list(ids).count(builder.bos_id)} BOS tokens, the first id is {ids[0]}"
    if tokenizer.pad_token_id in (None, builder.eos_id) or tokenizer.pad_token_id in ids:
        return f"the pad id {tokenizer.pad_token_id} is an end token or occurs in the row"
    start = next((place for place, label in enumerate(labels) if label != IGNORED), len(labels))
    supervised = list(labels[start:])
    if supervised != list(ids[start:]) or not supervised:
        return "the labels are not the ids of one run at the end"
    if (
        supervised[-1] != builder.eos_id
        or supervised.count(builder.eos_id) != 1
        or builder.eos_id in ids[:start]
    ):
        return "the last label is not the row's only EOS"
    if (told := _decode(tokenizer, supervised[:-1])) != row.completion:
        return f"the labels decode to {told!r:.80}, not to the completion {row.completion!r:.80}"
    if list(ids[:start]) != builder.prompt_ids(row.prompt):
        return "the ids before the completion are not the prompt's"
    return ""


def _decode(tokenizer: Any, ids: list[int]) -> str:
    text: str = tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
    return text
