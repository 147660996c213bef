"""Rows become ids in one way: one BOS, the mask on completion and EOS, nothing cut."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cartlm.errors import UserError
from cartlm.task.prompt import PromptBuilder, from_transformers, render_prompt, special_tokens, split_prompt

BOS, EOS, SHIFT = 1, 2, 3
BUILDER = PromptBuilder(lambda text: [byte + SHIFT for byte in text.encode()], BOS, EOS, "\n")
TEXT = st.text(st.characters(exclude_categories=["Cs"]))
LINE = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\n"), min_size=1)


def detokenize(ids: list[int]) -> str:
    return bytes(token - SHIFT for token in ids).decode()


class Tokenizer:
    """The part of a transformers tokenizer that the builder uses; words are ids."""

    bos_token_id, eos_token_id = 1, 2

    @property
    def backend_tokenizer(self) -> Tokenizer:
        return self

    def token_to_id(self, name: str) -> int | None:
        return {"<|im_end|>": 8}.get(name)

    def __call__(
        self, text: str, add_special_tokens: bool, split_special_tokens: bool
    ) -> dict[str, list[int]]:
        assert not add_special_tokens
        assert split_special_tokens
        return {"input_ids": [int(word) for word in text.split()]}


def test_render_is_the_published_form() -> None:
    assert (
        render_prompt(["Jeans", "Čaj 20 g"], "add jeans") == "Catalog:\nJeans\nČaj 20 g\n\nUser:\nadd jeans"
    )


@given(st.lists(LINE, min_size=1), TEXT)
def test_split_undoes_render(catalog: list[str], message: str) -> None:
    assert split_prompt(render_prompt(catalog, message)) == (catalog, message)


@pytest.mark.parametrize("text", ["", "Jeans", "Catalog:\nJeans", "Jeans\n\nUser:\nadd"])
def test_split_refuses_another_form(text: str) -> None:
    with pytest.raises(ValueError, match="the prompt is not"):
        split_prompt(text)


@given(TEXT, TEXT)
def test_example_has_one_bos_one_eos_and_the_mask_on_the_completion(prompt: str, completion: str) -> None:
    ids, mask = BUILDER.example(prompt, completion)
    assert len(ids) == len(mask)
    assert ids[0] == BOS
    assert ids.count(BOS) == ids.count(EOS) == 1
    supervised = [token for token, on in zip(ids, mask, strict=True) if on]
    assert supervised[-1] == EOS == ids[-1]
    assert detokenize(supervised[:-1]) == completion
    assert mask == sorted(mask)
    assert detokenize(ids[1 : mask.index(1)]) == prompt + "\n"
    assert ids[: mask.index(1)] == BUILDER.prompt_ids(prompt)


@given(TEXT, TEXT)
@pytest.mark.parametrize("bos", [None, EOS])
def test_without_bos_and_with_bos_that_is_eos(bos: int | None, prompt: str, completion: str) -> None:
    builder = PromptBuilder(BUILDER.tokenize, bos, EOS, "\n")
    ids, mask = builder.example(prompt, completion)
    head = ids[: mask.index(1)]
    assert head == builder.prompt_ids(prompt)
    assert head[: len(head) - len(builder.tokenize(prompt + "\n"))] == ([] if bos is None else [EOS])
    assert detokenize(head if bos is None else head[1:]) == prompt + "\n"
    assert (ids[-1], mask[-1]) == (EOS, 1)


@pytest.mark.parametrize("bos", [None, BOS, EOS])
@pytest.mark.parametrize("special", [BOS, EOS, 9])
def test_a_special_token_in_the_prompt_is_refused(bos: int | None, special: int) -> None:
    builder = PromptBuilder(lambda _text: [7, special, 8], bos, EOS, "\n", frozenset({EOS, 9}))
    if special == BOS != bos:
        assert special in builder.prompt_ids("add")
        return
    with pytest.raises(UserError, match="special token"):
        builder.prompt_ids("add")


def test_a_transformers_tokenizer_adds_nothing_itself() -> None:
    builder = from_transformers(Tokenizer(), " 9")
    assert builder.end_ids == {2, 8}
    assert builder.prompt_ids("5 6") == [1, 5, 6, 9]
    assert builder.completion_ids("7") == [7, 2]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("add 2 <s", []),
        ("a line\nand another", []),  # a token of its own, which is plain text
        ("add 2 jeans</s>", ["</s>"]),
        ("<pad> and <s>", ["<s>", "<pad>"]),
        ("<unk>", ["<unk>"]),
        ("< /s>", []),
        ("<|end|>", []),  # none of this vocabulary
    ],
)
def test_special_tokens_in_a_text(text: str, found: list[str], toy_model: Path) -> None:
    from transformers import AutoTokenizer

    assert special_tokens(AutoTokenizer.from_pretrained(toy_model), text) == found
