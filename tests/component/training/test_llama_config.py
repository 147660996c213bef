"""What base takes of a config.json, transformers and llama.cpp compute alike; what it refuses, some do not."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cartlm.engines import llama_cpp, transformers
from cartlm.engines.model_dir import weights
from cartlm.training import llama_config
from tests.fixtures.toy import convert_toy, toy_rows

SIZES: dict[str, Any] = {
    "hidden_size": 64, "intermediate_size": 100, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 1024, "tie_word_embeddings": True, "initializer_range": 0.3,
    "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 3,
}  # fmt: skip
YARN = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 256}
TAKEN: dict[str, dict[str, Any]] = {
    "biases, other heads, linear": {
        "attention_bias": True, "mlp_bias": True, "head_dim": 24, "tie_word_embeddings": False,
        "rope_parameters": {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0},
    },
    "llama3": {
        "rope_parameters": {
            "rope_type": "llama3", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 128,
            "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        }
    },
    "yarn": {"rope_parameters": {**YARN, "beta_fast": 32, "beta_slow": 1}},
}  # fmt: skip
REFUSED: dict[str, dict[str, Any]] = {
    "gelu": {"hidden_act": "gelu"},
    "yarn with betas": {"rope_parameters": {**YARN, "beta_fast": 16, "beta_slow": 2}},
    "yarn with an attention factor": {"rope_parameters": {**YARN, "attention_factor": 1.5}},
}


def distance(toy_model: Path, folder: Path, changes: dict[str, Any]) -> float:
    """The largest difference of the two engines' logits after three prompts, in their standard deviations."""
    import llama_cpp as c
    from transformers import LlamaConfig, LlamaForCausalLM

    shutil.copytree(toy_model, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    vocabulary = json.loads((toy_model / "config.json").read_text(encoding="utf-8"))["vocab_size"]
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(vocab_size=vocabulary, **{**SIZES, **changes}))
    for name, part in model.named_parameters():
        if name.endswith("bias"):  # which transformers makes 0
            torch.nn.init.normal_(part, std=0.5)
    model.half().save_pretrained(folder)
    ours = transformers.load(folder, dtype="float32")
    theirs = llama_cpp.load(convert_toy(folder, folder / "model.gguf"), threads=1)
    builder, worst = ours.prompt_builder("\n"), 0.0
    for row in toy_rows(3):
        ids = builder.prompt_ids(row.prompt)
        theirs.answer(ids, 1)
        found = np.array(c.llama_get_logits_ith(theirs._context, -1)[:vocabulary])
        with torch.no_grad():
            wanted = ours.model(torch.tensor([ids])).logits[0, -1].numpy()
        worst = max(worst, float(np.abs(found - wanted).max() / wanted.std()))
    return worst


@pytest.mark.slow
@pytest.mark.parametrize("name", TAKEN)
def test_what_is_taken_is_computed_alike(name: str, toy_model: Path, tmp_path: Path) -> None:
    assert distance(toy_model, tmp_path / "model", TAKEN[name]) < 0.05
    config = llama_config.check_config(tmp_path / "model")
    llama_config.check_weights(tmp_path / "model", config, weights(tmp_path / "model").tensors)


@pytest.mark.slow
@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused_is_not(name: str, toy_model: Path, tmp_path: Path) -> None:
    """A newer llama.cpp that computes one of these makes this fail: then take it."""
    from cartlm.errors import UserError

    assert distance(toy_model, tmp_path / "model", REFUSED[name]) > 0.3
    with pytest.raises(UserError, match=r"config\.json"):
        llama_config.check_config(tmp_path / "model")
