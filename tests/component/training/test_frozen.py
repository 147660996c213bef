"""The layers that training computes on a CPU, against those of transformers, peft and bitsandbytes, for each architecture."""

from __future__ import annotations

import copy
import sys
from pathlib import Path
from typing import Any

import bitsandbytes
import peft
import pytest
import torch
import transformers as hf
from torch import nn

from cartlm.training import frozen, label_loss, memory, qlora
from cartlm.training.trainer import lora_targets

IGNORED = -100
SMALL = {
    "vocab_size": 97, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 64, "pad_token_id": 0,
}  # fmt: skip
ARCHITECTURES = {
    "llama": hf.LlamaConfig(**SMALL, tie_word_embeddings=True),
    "llama with biases": hf.LlamaConfig(**SMALL, attention_bias=True, mlp_bias=True),
    "mistral": hf.MistralConfig(**SMALL, sliding_window=8),
    "qwen2": hf.Qwen2Config(**SMALL),
    "qwen3": hf.Qwen3Config(**SMALL, head_dim=16),
    "gemma3": hf.Gemma3TextConfig(**SMALL, head_dim=16, sliding_window=8, final_logit_softcapping=2.0),
    "granite": hf.GraniteConfig(**SMALL, logits_scaling=3.0, residual_multiplier=0.5),
}


def with_lora(architecture: str, dropout: float = 0.0) -> Any:
    """A model with random weights and an adapter whose matrices are far from 0."""
    torch.manual_seed(1)
    config = copy.deepcopy(ARCHITECTURES[architecture])
    model = hf.AutoModelForCausalLM.from_config(
        config, dtype=torch.float32, attn_implementation=qlora.ATTENTION
    )
    for name, weights in model.named_parameters():
        if "norm" in name or name.endswith("bias"):
            nn.init.normal_(weights, 0.5, 0.2)
    lora = peft.LoraConfig(
        r=4,
        lora_alpha=8,
        lora_dropout=dropout,
        target_modules=lora_targets(model, "all-linear"),
        init_lora_weights=False,
    )
    return peft.get_peft_model(model, lora).train()


def batch(side: str = "right") -> dict[str, torch.Tensor]:
    """Four ragged rows, padded on one side; each has labels at its end alone."""
    generator = torch.Generator().manual_seed(2)
    lengths, width = (21, 17, 24, 9), 24
    ids = torch.randint(1, 97, (4, width), generator=generator)
    mask = torch.ones_like(ids)
    labels = torch.full_like(ids, IGNORED)
    for row, length in enumerate(lengths):
        padding = slice(length, width) if side == "right" else slice(0, width - length)
        end = length if side == "right" else width
        ids[row, padding] = mask[row, padding] = 0
        labels[row, end - 3 - row : end] = ids[row, end - 3 - row : end]
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def of_transformers(model: Any, given: dict[str, torch.Tensor]) -> torch.Tensor:
    """Summed loss from the logits of all positions."""
    logits = model(
        input_ids=given["input_ids"], attention_mask=given["attention_mask"], use_cache=False
    ).logits
    flat, wanted = logits[:, :-1].flatten(0, 1).float(), given["labels"][:, 1:].flatten()
    return nn.functional.cross_entropy(flat, wanted, ignore_index=IGNORED, reduction="sum")


def gradients(model: Any, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    model.zero_grad()
    loss.backward()
    return {name: one.grad.clone() for name, one in model.named_parameters() if one.grad is not None}


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_loss_and_gradients_are_those_of_transformers_and_peft(
    architecture: str, side: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(label_loss, "LOGITS", 1)  # two slices, of 64 and 33
    given, model = batch(side), with_lora(architecture)
    wanted_loss = of_transformers(model, given) / 19
    wanted = gradients(model, wanted_loss)
    for matrix in frozen.speed_up(model, torch.float32):
        matrix.hold()
    with frozen.rotating(model):
        loss = label_loss.label_loss(model, given, num_items_in_batch=19)
    found = gradients(model, loss)
    assert float(loss) == pytest.approx(float(wanted_loss), rel=1e-5)
    assert found.keys() == wanted.keys()
    assert len(found) == 2 * 2 * 7
    for name, one in wanted.items():
        assert one.norm() > 0
        torch.testing.assert_close(
            found[name], one, rtol=2e-3, atol=2e-6, msg=lambda text, name=name: f"{name}: {text}"
        )


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_in_bfloat16_it_is_as_near_to_float32_as_autocast(architecture: str) -> None:
    given, model = batch(), with_lora(architecture)
    exact = gradients(model, of_transformers(model, given))
    with torch.autocast("cpu", torch.bfloat16):
        loss = of_transformers(model, given)
    cast = gradients(model, loss)
    frozen.speed_up(model, torch.bfloat16)
    with frozen.rotating(model):
        ours = gradients(model, label_loss.label_loss(model, given, num_items_in_batch=1))

    def away(found: dict[str, torch.Tensor]) -> float:
        squares = sum(float((found[name] - one).square().sum()) for name, one in exact.items())
        return (squares / sum(float(one.square().sum()) for one in exact.values())) ** 0.5

    assert away(ours) < 2 * away(cast) + 0.005


@pytest.mark.parametrize("architecture", ["llama", "gemma3"])
def test_every_norm_is_replaced(architecture: str) -> None:
    model = with_lora(architecture)
    frozen.speed_up(model, torch.float32)
    left = [
        name for name, module in model.named_modules()
        if type(module).__name__.endswith("RMSNorm") and "forward" not in module.__dict__
    ]  # fmt: skip
    assert left == []


def test_what_computes_something_else_is_left_alone() -> None:
    class OddRMSNorm(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight, self.eps = nn.Parameter(torch.ones(32)), 1e-6

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x / (0.1 + x.abs().mean(-1, keepdim=True)) * self.weight

    model = with_lora("llama")
    layer = model.get_base_model().model.layers[0]
    layer.input_layernorm = OddRMSNorm()
    given = batch()
    wanted = gradients(model, of_transformers(model, given))
    frozen.speed_up(model, torch.float32)
    assert "forward" not in layer.input_layernorm.__dict__
    found = gradients(model, label_loss.label_loss(model, given, num_items_in_batch=1))
    for name, one in wanted.items():
        torch.testing.assert_close(found[name], one, rtol=2e-3, atol=2e-5)


def test_dropout_draws_and_computes_as_peft() -> None:
    given, model = batch(), with_lora("llama", dropout=0.3)
    torch.manual_seed(5)
    wanted = gradients(model, of_transformers(model, given))
    frozen.speed_up(model, torch.float32)
    torch.manual_seed(5)
    found = gradients(model, label_loss.label_loss(model, given, num_items_in_batch=1))
    torch.manual_seed(6)
    other = gradients(model, label_loss.label_loss(model, given, num_items_in_batch=1))
    for name, one in wanted.items():
        torch.testing.assert_close(found[name], one, rtol=2e-3, atol=2e-5)
    assert any(not torch.allclose(other[name], one, 1e-2) for name, one in wanted.items())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_nf4_gives_the_numbers_that_bitsandbytes_multiplies_by(toy_base: Path, dtype: torch.dtype) -> None:
    """Held or made at each use, forward and backward, to the bit."""
    model = qlora.load_base(toy_base, "nf4", str(dtype).removeprefix("torch."), "cpu")
    layers = [module for module in model.modules() if isinstance(module, bitsandbytes.nn.Linear4bit)]
    assert len(layers) >= 7
    for layer in layers:
        matrix = frozen.Frozen(layer, dtype)
        x = torch.randn((1, 9, layer.in_features), dtype=dtype, requires_grad=True)
        wanted = bitsandbytes.matmul_4bit(x, layer.weight, quant_state=layer.weight.quant_state)
        (wanted_grad,) = torch.autograd.grad(wanted.sum(), x)
        for _ in range(2):
            found = frozen.Product.apply(x, None, matrix, None, None, 1.0)
            (grad,) = torch.autograd.grad(found.sum(), x)
            assert found.dtype == dtype
            assert torch.equal(found, wanted)
            assert torch.equal(grad, wanted_grad)
            matrix.hold()
        eye = torch.eye(layer.in_features, dtype=dtype)
        assert torch.equal(
            bitsandbytes.matmul_4bit(eye, layer.weight, quant_state=layer.weight.quant_state), matrix().t()
        )


def test_holding_lets_go_of_a_wider_copy() -> None:
    model = with_lora("llama")
    matrices = frozen.speed_up(model, torch.bfloat16)
    before = sum(memory.storages(model.parameters()).values())
    extra = sum(matrix.extra() for matrix in matrices)
    assert extra == -sum(matrix.size() for matrix in matrices)
    for matrix in matrices:
        matrix.hold()
    assert sum(memory.storages(model.parameters()).values()) == before + extra


def test_the_head_s_tie_holds_for_the_embedding_alone() -> None:
    """The head is bfloat16, and the embedding keeps its digits."""
    model = with_lora("gemma3").get_base_model()
    embedding = model.get_input_embeddings().weight
    assert model.get_output_embeddings().weight is embedding
    frozen.speed_up(model, torch.bfloat16)
    assert model.get_output_embeddings().weight.dtype == torch.bfloat16
    assert model.get_input_embeddings().weight is embedding
    assert embedding.dtype == torch.float32


def test_no_labels_are_no_error_and_no_gradient() -> None:
    model = with_lora("llama")
    given = batch()
    given["labels"][:] = IGNORED
    loss = label_loss.label_loss(model, given)
    found = gradients(model, loss)
    assert float(loss) == 0
    assert all(not one.any() for one in found.values())


def test_the_model_answers_as_before_after_a_loss() -> None:
    """The decoder and the head that the loss takes hold of are let go, after an error too."""
    model, given = with_lora("llama").eval(), batch()
    before = model(input_ids=given["input_ids"]).logits
    label_loss.label_loss(model, given)
    with pytest.raises(IndexError):
        label_loss.label_loss(model, {**given, "labels": torch.where(given["labels"] > 0, 97, IGNORED)})
    with pytest.raises(IndexError):
        label_loss.label_loss(model, {**given, "input_ids": given["input_ids"] + 97})
    assert torch.equal(model(input_ids=given["input_ids"]).logits, before)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_positions_are_turned_by_ours_while_it_lasts(architecture: str) -> None:
    model = with_lora(architecture)
    module = sys.modules[type(model.get_base_model()).__module__]
    before = module.apply_rotary_pos_emb
    with frozen.rotating(model):
        assert module.apply_rotary_pos_emb is frozen.rotate
    assert module.apply_rotary_pos_emb is before


def test_another_way_of_turning_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def interleaved(q: Any, k: Any, cos: Any, sin: Any, unsqueeze_dim: int = 1) -> Any:
        def turned(x: torch.Tensor) -> torch.Tensor:
            return x * cos[:, None] + torch.stack((-x[..., 1::2], x[..., ::2]), -1).flatten(-2) * sin[:, None]

        return turned(q), turned(k)

    model = with_lora("llama")
    module = sys.modules[type(model.get_base_model()).__module__]
    monkeypatch.setattr(module, "apply_rotary_pos_emb", interleaved)
    with frozen.rotating(model):
        assert module.apply_rotary_pos_emb is interleaved
