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
