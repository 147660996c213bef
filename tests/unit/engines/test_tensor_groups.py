"""Tensors are grouped alike by their names in transformers, GPTQ checkpoints and GGUF files."""

from __future__ import annotations

import pytest

from cartlm.engines.tensor_groups import bytes_by_group, tensor_group


@pytest.mark.parametrize(
    ("name", "group"),
    [
        ("model.embed_tokens.weight", "token_embd"),
        ("model.layers.3.self_attn.q_proj.weight", "attention"),
        ("model.layers.3.self_attn.o_proj.qweight", "attention"),
        ("model.layers.0.mlp.down_proj.g_idx", "ffn"),
        ("model.layers.0.post_attention_layernorm.weight", "norm"),
        ("model.norm.weight", "norm"),
        ("lm_head.weight", "output"),
        ("model.rotary", "other"),
        ("token_embd.weight", "token_embd"),
        ("output.weight", "output"),
        ("output_norm.weight", "norm"),
        ("blk.3.attn_output.weight", "attention"),
        ("blk.3.attn_norm.weight", "norm"),
        ("blk.3.ffn_norm.weight", "norm"),
        ("blk.3.ffn_down.weight", "ffn"),
        ("rope_freqs.weight", "other"),
    ],
)
def test_a_tensor_is_grouped_by_its_name(name: str, group: str) -> None:
    assert tensor_group(name) == group


def test_only_groups_that_occur_are_counted() -> None:
    sizes = [("lm_head.weight", 4), ("model.norm.weight", 1), ("model.layers.0.input_layernorm.weight", 2)]
    assert bytes_by_group(sizes) == {"norm": 3, "output": 4}
