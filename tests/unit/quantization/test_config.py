"""Params of the quantized variants: any type of the table is one line."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from cartlm.bench.config import Architecture
from cartlm.quantization.config import Gguf
from cartlm.quantization.gguf_types import BLOCKS


@pytest.mark.parametrize("name", BLOCKS)
def test_every_type_of_the_table_is_a_variant(name: str) -> None:
    assert Gguf(type=name, imatrix=True).type == name


@pytest.mark.parametrize(("name", "word"), [("Q5_K_X", "Q5_K_S"), ("q5_k_s", "Q5_K_S"), ("F16", "BF16")])
def test_an_unknown_type_names_those_there_are(name: str, word: str) -> None:
    with pytest.raises(ValidationError, match=word):
        Gguf(type=name, imatrix=True)


def test_some_types_need_an_importance_matrix() -> None:
    assert Gguf(type="Q5_K_S", imatrix=False)
    with pytest.raises(ValidationError, match="IQ2_XXS needs imatrix: true"):
        Gguf(type="IQ2_XXS", imatrix=False)


def test_groups_of_tensors_have_types_of_their_own() -> None:
    given = {"token_embedding": "Q6_K", "tensors": {"attn_q": "Q8_0", "ffn": "Q3_K"}}
    assert Gguf(type="Q4_K_M", imatrix=False, **given).tensor_types == {
        "token_embd": "Q6_K",
        "attn_q": "Q8_0",
        "ffn": "Q3_K",
    }
    assert Gguf(type="Q4_K_M", imatrix=False).tensor_types == {}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"token_embedding": "Q4_K_M"}, "not one of F16, BF16, Q8_0"),  # a mixture is no type of a tensor
        ({"output": "q6_k"}, "not one of F16"),
        ({"tensors": {"attn_q": "Q9_K"}}, "not one of F16"),
        ({"tensors": {"attn": "Q6_K"}}, "not one of attn_q, attn_k"),
        ({"tensors": {"ffn_up": "IQ3_XXS"}}, "tensors.ffn_up IQ3_XXS needs imatrix: true"),
        ({"imatrix": True, "token_embedding": "IQ2_XXS"}, "llama-imatrix measures none of it"),
        ({"type": "BF16", "tensors": {"ffn_up": "Q6_K"}}, "ignores tensors where type is BF16"),
    ],
)
def test_what_llama_quantize_would_refuse_or_ignore(given: dict[str, object], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        Gguf.model_validate({"type": "Q4_K_M", "imatrix": False, **given})


def test_an_architecture_is_quantized_without_one() -> None:
    values = {
        "name": "toy", "seed": 0, "dtypes": [], "rounds": 1, "warmups": 4, "warmup_tokens": 1, "queries": 1,
        "new_tokens": 1, "harness_rounds": 0, "harness_prompt": 1, "harness_new": 1, "max_spread": 0.5,
    }  # fmt: skip
    assert Architecture.model_validate({**values, "types": ["q5_k_s", "iq4_xs"]}).types == [
        "q5_k_s",
        "iq4_xs",
    ]
    for name in ("iq2_xs", "Q5_K_S"):
        with pytest.raises(ValidationError, match="q5_k_s"):
            Architecture.model_validate({**values, "types": [name]})
