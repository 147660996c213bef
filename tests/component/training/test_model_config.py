"""What base takes of a config.json, transformers and llama.cpp compute alike; what it refuses, some do not."""

from __future__ import annotations

import contextlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from cartlm.engines.model_dir import weights
from cartlm.errors import UserError
from cartlm.training import model_config
from tests.component.training.logits import logit_distance
from tests.fixtures.families import TOYS, make_toy
from tests.fixtures.toy import convert_toy

SIZES: dict[str, Any] = {
    "hidden_size": 64, "intermediate_size": 100, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 1024, "tie_word_embeddings": True, "initializer_range": 0.3,
    "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 3,
}  # fmt: skip
LINEAR = {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0}
YARN = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 256}
LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 128,
    "low_freq_factor": 1.0, "high_freq_factor": 4.0,
}  # fmt: skip
TAKEN: dict[str, dict[str, Any]] = {
    "biases, other heads, linear": {
        "attention_bias": True, "mlp_bias": True, "head_dim": 24, "tie_word_embeddings": False, "rope_parameters": LINEAR,
    },
    "llama3": {"rope_parameters": LLAMA3},
    "yarn": {"rope_parameters": {**YARN, "beta_fast": 32, "beta_slow": 1}},
}  # fmt: skip
REFUSED: dict[str, dict[str, Any]] = {
    "gelu": {"hidden_act": "gelu"},
    "yarn with betas": {"rope_parameters": {**YARN, "beta_fast": 16, "beta_slow": 2}},
    "yarn with an attention factor": {"rope_parameters": {**YARN, "attention_factor": 1.5}},
}
GEMMA_LINEAR = {
    "full_attention": {"rope_type": "linear", "rope_theta": 1e6, "factor": 8.0},
    "sliding_attention": {"rope_type": "default", "rope_theta": 500.0},
}
OTHERS_TAKEN: dict[str, tuple[str, dict[str, Any]]] = {
    **{name: (name, {}) for name in TOYS},
    "mistral, llama3, tied": ("mistral", {"rope_parameters": LLAMA3, "tie_word_embeddings": True}),
    "qwen2, yarn, untied": ("qwen2", {"rope_parameters": YARN, "tie_word_embeddings": False}),
    "qwen3, linear, untied": ("qwen3", {"rope_parameters": LINEAR, "tie_word_embeddings": False}),
    "gemma3, linear, other thetas, seven layers": ("gemma3", {"rope_parameters": GEMMA_LINEAR, "num_hidden_layers": 7}),
    "gemma3, untied, a wide window": ("gemma3", {"tie_word_embeddings": False, "sliding_window": 512}),
}  # fmt: skip
OTHERS_REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    "qwen2 with a window": (
        "qwen2", {"use_sliding_window": True, "sliding_window": 32, "max_window_layers": 0}, "use_sliding_window = True",
    ),
    "qwen2 with other heads": ("qwen2", {"head_dim": 24}, "head_dim is 24, in llama.cpp hidden_size by heads, 16"),
    "qwen3 with llama3": ("qwen3", {"rope_parameters": LLAMA3}, "its rope_type is 'llama3'"),
    "gemma3 with another scale": ("gemma3", {"query_pre_attn_scalar": 256}, "query_pre_attn_scalar is 256, in llama.cpp 32"),
    "gemma3 with other layers": ("gemma3", {"layer_types": ["sliding_attention", "full_attention"] * 3}, "layer_types is"),
    "gemma3 with capped logits": ("gemma3", {"final_logit_softcapping": 2.0}, "final_logit_softcapping is 2.0"),
    "gemma3 that looks ahead": ("gemma3", {"use_bidirectional_attention": True}, "use_bidirectional_attention is True"),
}  # fmt: skip


def distance(folder: Path) -> float:
    return logit_distance(folder, convert_toy(folder, folder / "model.gguf"))


def llama(toy_model: Path, folder: Path, changes: dict[str, Any]) -> Path:
    """A Llama that knows nothing, with the toy model's tokenizer."""
    from transformers import LlamaConfig, LlamaForCausalLM

    shutil.copytree(toy_model, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    vocabulary = json.loads((toy_model / "config.json").read_text(encoding="utf-8"))["vocab_size"]
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(vocab_size=vocabulary, **{**SIZES, **changes}))
    for name, part in model.named_parameters():
        if name.endswith("bias"):  # which transformers makes 0
            torch.nn.init.normal_(part, std=0.5)
    model.half().save_pretrained(folder)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("name", TAKEN)
def test_what_is_taken_is_computed_alike(name: str, toy_model: Path, tmp_path: Path) -> None:
    folder = llama(toy_model, tmp_path / "model", TAKEN[name])
    assert distance(folder) < 0.05
    config = model_config.check_config(folder)
    model_config.check_weights(folder, config, weights(folder).tensors)


@pytest.mark.slow
@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused_is_not(name: str, toy_model: Path, tmp_path: Path) -> None:
    """A newer llama.cpp that computes one of these makes this fail: then take it."""
    folder = llama(toy_model, tmp_path / "model", REFUSED[name])
    assert distance(folder) > 0.3
    with pytest.raises(UserError, match=r"config\.json"):
        model_config.check_config(folder)


@pytest.mark.nightly  # what the families' own models have is in test_families.py
@pytest.mark.parametrize("name", OTHERS_TAKEN)
def test_of_other_families_too(name: str, tmp_path: Path) -> None:
    family, changes = OTHERS_TAKEN[name]
    folder = make_toy(tmp_path / "model", family, steps=0, initializer_range=0.3, **changes)
    assert distance(folder) < 0.05
    config = model_config.check_config(folder)
    model_config.check_weights(folder, config, weights(folder).tensors)


@pytest.mark.parametrize("name", OTHERS_REFUSED)
def test_of_other_families_values_are_refused(name: str, tmp_path: Path) -> None:
    family, changes, words = OTHERS_REFUSED[name]
    folder = make_toy(tmp_path / "model", family, steps=0, **changes)
    with pytest.raises(UserError, match=r"config\.json") as error:
        model_config.check_config(folder)
    assert words in error.value.message


@pytest.mark.nightly
@pytest.mark.parametrize("name", OTHERS_REFUSED)
def test_for_a_reason(name: str, tmp_path: Path) -> None:
    """llama.cpp does not load it, or computes something else."""
    family, changes, _ = OTHERS_REFUSED[name]
    folder = make_toy(tmp_path / "model", family, steps=0, initializer_range=0.3, **changes)
    with contextlib.suppress(UserError):  # it does not load
        assert distance(folder) > 0.3
