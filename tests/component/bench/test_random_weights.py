"""Models of known architectures with random weights: each family, made small, answers in both engines."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cartlm.bench import random_weights
from cartlm.engines import llama_cpp, transformers
from tests.fixtures.toy import convert_toy

SMALL: dict[str, Any] = {
    "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "head_dim": 32,
}  # fmt: skip
MESSAGE = "Tea\nJeans\n\ntwo teas please"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["qwen3-0.6b", "gemma-3-270m"])
def test_each_family_answers_in_both_engines(name: str, tmp_path: Path) -> None:
    changes = {key: value for key, value in SMALL.items() if key in random_weights.OTHERS[name]}
    folder = tmp_path / "weights"
    model = random_weights.config_of(name, **changes)
    assert random_weights.write(folder, model, seed=7) > 0
    random_weights.write_tokenizer(folder, model.vocab_size)
    convert_toy(folder, tmp_path / "model.gguf")
    with llama_cpp.load(tmp_path / "model.gguf") as engine:
        ids = engine.prompt_builder("\n").prompt_ids(MESSAGE)
        answer = engine.answer(ids, 4)
    with transformers.load(folder, "float32", "cpu", 1) as other:
        assert other.prompt_builder("\n").prompt_ids(MESSAGE) == ids
        assert other.answer(ids, 4).decoded_tokens == answer.decoded_tokens == 4


@pytest.mark.parametrize("name", sorted(random_weights.OTHERS))
def test_its_size_is_that_of_its_name(name: str) -> None:
    """Parameters of the full shape, on torch's meta device."""
    import torch
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(random_weights.config_of(name))
    size, unit = float(name.split("-")[-1][:-1]), {"b": 1e9, "m": 1e6}[name[-1]]
    assert sum(weight.numel() for weight in model.parameters()) == pytest.approx(size * unit, rel=0.03)
