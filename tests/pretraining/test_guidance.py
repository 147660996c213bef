"""Guided attention: the second loss is that of the head's own attention, and following it moves that attention."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from cartlm.pretraining.guidance import Guide, Places

IDS = torch.tensor([[1, 5, 6, 7, 8, 9, 10, 11], [1, 6, 9, 12, 13, 5, 3, 3]])
PLACES: list[Places] = [[(4, [1, 2]), (7, [5])], [(5, [0, 3])]]


@pytest.fixture(params=[4, 2], ids=["one key head per head", "key heads shared"])
def model(request: Any) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=16,
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=request.param,
        attn_implementation="eager",
    )
    return LlamaForCausalLM(config).eval()


@pytest.mark.parametrize("head", range(4))
def test_it_is_the_attention_that_the_model_itself_pays(model: Any, head: int) -> None:
    guide = Guide(model, [1])
    with torch.no_grad():
        attention = model.model(input_ids=IDS, output_attentions=True, use_cache=False).attentions[1]
        loss = guide.losses(1, head, PLACES)
    expected = sum(
        -attention[document, head, position, right].sum().log()
        for document, places in enumerate(PLACES)
        for position, right in places
    )
    assert loss.item() == pytest.approx(expected.item(), rel=1e-4)


def test_following_it_sends_the_attention_there(model: Any) -> None:
    guide = Guide(model, [1])
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    losses = []
    for _ in range(60):
        model.model(input_ids=IDS, use_cache=False)
        loss = guide.losses(1, 3, PLACES)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 4


def test_nothing_to_look_at_costs_nothing(model: Any) -> None:
    guide = Guide(model, [0])
    model.model(input_ids=IDS, use_cache=False)
    loss = guide.losses(0, 0, [[], []])
    assert loss.item() == 0.0
    loss.backward()
