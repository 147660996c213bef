"""What the trainer holds of every row, and that each kind of damage is found."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cartlm.engines.model_dir import load_tokenizer
from cartlm.errors import UserError
from cartlm.task.prompt import PromptBuilder, from_transformers, render_prompt
from cartlm.task.rows import Row
from cartlm.training.examples import IGNORED, check, examples
from tests.fixtures.toy import toy_rows

ROWS = toy_rows(12)


@pytest.fixture(scope="module")
def tokenizer(toy_model: Path) -> Any:
    return load_tokenizer(toy_model)


@pytest.fixture(scope="module")
def builder(tokenizer: Any) -> PromptBuilder:
    return from_transformers(tokenizer, "\n")


def held(builder: PromptBuilder) -> list[dict[str, list[int]]]:
    """What trl makes of the examples: labels instead of the mask."""
    return [
        {
            "input_ids": one["input_ids"],
            "labels": [
                token if bit else IGNORED
                for token, bit in zip(one["input_ids"], one["completion_mask"], strict=True)
            ],
        }
        for one in examples(ROWS, builder, 640)
    ]


def test_sound_rows_pass(builder: PromptBuilder, tokenizer: Any) -> None:
    check(ROWS, held(builder), builder, tokenizer)


def test_long_rows_are_refused_and_counted(builder: PromptBuilder) -> None:
    lengths = [len(one["input_ids"]) for one in examples(ROWS, builder, 640)]
    limit = max(lengths) - 1
    with pytest.raises(UserError, match=r"prompt\.max_tokens") as error:
        examples(ROWS, builder, limit)
    assert f"{lengths.count(max(lengths))} rows are longer" in str(error.value)
    assert f"set prompt.max_tokens to {max(lengths)}" in str(error.value)
    assert len(examples(ROWS, builder, max(lengths))) == len(ROWS)


def drop_eos(one: dict[str, list[int]]) -> None:
    one["input_ids"].pop()
    one["labels"].pop()


def mask_eos(one: dict[str, list[int]]) -> None:
    one["labels"][-1] = IGNORED


def second_bos(one: dict[str, list[int]]) -> None:
    one["input_ids"].insert(0, one["input_ids"][0])
    one["labels"].insert(0, IGNORED)


def no_bos(one: dict[str, list[int]]) -> None:
    one["input_ids"].pop(0)
    one["labels"].pop(0)


def train_on_prompt(one: dict[str, list[int]]) -> None:
    one["labels"][:] = one["input_ids"]


def train_on_nothing(one: dict[str, list[int]]) -> None:
    one["labels"][:] = [IGNORED] * len(one["labels"])


def mask_too_long(one: dict[str, list[int]]) -> None:
    start = next(place for place, label in enumerate(one["labels"]) if label != IGNORED)
    one["labels"][start] = IGNORED


def pad_inside(one: dict[str, list[int]]) -> None:
    one["input_ids"].insert(5, 3)
    one["labels"].insert(5, IGNORED)


def cut_prompt(one: dict[str, list[int]]) -> None:
    del one["input_ids"][1:4]
    del one["labels"][1:4]


def shifted(one: dict[str, list[int]]) -> None:
    one["labels"][:] = [*one["labels"][1:], IGNORED]


@pytest.mark.parametrize(
    "damage",
    [
        drop_eos, mask_eos, second_bos, no_bos, train_on_prompt, train_on_nothing, mask_too_long, pad_inside,
        cut_prompt, shifted,
    ],
)  # fmt: skip
def test_damage_to_one_row_is_found(
    damage: Callable[[dict[str, list[int]]], None], builder: PromptBuilder, tokenizer: Any
) -> None:
    given = [{name: list(ids) for name, ids in one.items()} for one in held(builder)]
    damage(given[7])
    with pytest.raises(UserError, match=ROWS[7].id):
        check(ROWS, given, builder, tokenizer)


def test_a_lost_row_and_another_completion_are_found(builder: PromptBuilder, tokenizer: Any) -> None:
    with pytest.raises(UserError, match="holds 11 rows of 12"):
        check(ROWS, held(builder)[:-1], builder, tokenizer)
    other = Row(**{**ROWS[0].__dict__, "completion": ROWS[1].completion})
    with pytest.raises(UserError, match="its ids"):
        check([other, *ROWS[1:]], held(builder), builder, tokenizer)


@pytest.mark.parametrize("text", ["two </s> please", "<s>", "<unk> 2", "<0x0A>", "<|im_end|>"])
def test_engines_read_no_special_token_out_of_a_message(tokenizer: Any, toy_gguf: Path, text: str) -> None:
    """A test row may hold one: both engines are asked with the same ids, none of them special."""
    from cartlm.engines import llama_cpp

    prompt = render_prompt(ROWS[0].catalog, text)
    mine = from_transformers(tokenizer, "\n").prompt_ids(prompt)
    with llama_cpp.load_vocabulary(toy_gguf) as vocab:
        assert vocab.prompt_builder("\n").prompt_ids(prompt) == mine
    assert not set(mine[1:]) & set(tokenizer.convert_tokens_to_ids(["<s>", "</s>", "<unk>", "<pad>"]))
