"""The training attention is the usual causal attention, forwards and backwards."""

from __future__ import annotations

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from base.pretraining import attention


@pytest.mark.parametrize("tokens", [5, 128, 300])
@pytest.mark.parametrize("key_heads", [4, 2])
def test_it_gives_what_the_usual_attention_gives(tokens: int, key_heads: int) -> None:
    torch.manual_seed(1)
    config = LlamaConfig(
        vocab_size=32,
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=key_heads,
    )
    model = LlamaForCausalLM(config)
    ids = torch.randint(32, (2, tokens))
    found = {}
    for name in ("sdpa", attention.NAME):
        model.set_attn_implementation(name)
        logits = model(input_ids=ids, use_cache=False).logits
        loss = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
        found[name] = (logits.detach(), torch.autograd.grad(loss, list(model.parameters())))
    torch.testing.assert_close(found["sdpa"][0], found[attention.NAME][0], atol=1e-5, rtol=1e-4)
    for one, other in zip(found["sdpa"][1], found[attention.NAME][1], strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-3)
