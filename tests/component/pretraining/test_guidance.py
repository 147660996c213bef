"""Guided attention: the second loss is that of the head's own attention, and following it moves that attention."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from base.pretraining.guidance import Guide, Places, Targets

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
        loss = guide.attention_loss(1, head, PLACES)
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
        loss = guide.attention_loss(1, 3, PLACES)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 4


def test_nothing_to_look_at_costs_nothing(model: Any) -> None:
    guide = Guide(model, [0])
    model.model(input_ids=IDS, use_cache=False)
    loss = guide.attention_loss(0, 0, [[], []])
    assert loss.item() == 0.0
    loss.backward()


TARGETS: list[Targets] = [[(4, 6), (7, 9)], [(5, 3)]]


def test_a_layer_is_read_as_if_it_were_the_last(model: Any) -> None:
    guide = Guide(model, [1])
    with torch.no_grad():
        hidden = model.model(input_ids=IDS, output_hidden_states=True, use_cache=False).hidden_states[1]
        loss = guide.reading_loss(1, TARGETS)
        logits = model.lm_head(model.model.layers[1].input_layernorm(hidden)).log_softmax(-1)
    expected = -sum(
        logits[document, at, token] for document, found in enumerate(TARGETS) for at, token in found
    )
    assert loss.item() == pytest.approx(float(expected), rel=1e-4)
    assert guide.reading_loss(1, [[], []]).item() == 0.0


def test_what_must_be_passed_on_is_learned_by_the_layers_before(model: Any) -> None:
    guide = Guide(model, [1])
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for step in range(60):
        model.model(input_ids=IDS, use_cache=False)
        loss = guide.reading_loss(1, TARGETS)
        optimizer.zero_grad()
        loss.backward()
        if not step:
            first = loss.item()
            weights = {name: parameter.grad for name, parameter in model.named_parameters()}
            assert weights["model.layers.0.self_attn.v_proj.weight"].abs().sum() > 0
            assert weights["model.layers.1.self_attn.v_proj.weight"] is None
        optimizer.step()
    assert loss.item() < first / 4
