"""The loss of the labels alone: no logits are computed for a prompt's tokens, and never many at once."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutputWithPast

from cartlm.training.examples import IGNORED

LOGITS = 2**20
"""Logits computed at a time: 4 MiB in float32, which a cache holds."""


def label_loss(
    model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
) -> Any:
    """Mean cross-entropy of the labels that are not -100, over `num_items_in_batch` of them (None: this batch's).

    `inputs`: ids, mask and labels, [rows, tokens]. `model` is a causal language model of transformers, with or without
    peft's adapter. Whatever it does to its logits (soft-capping, scaling) is done, since its own code makes them.
    With `return_outputs` also a mapping that holds the loss.
    """
    learned = inputs["labels"][:, 1:] != IGNORED
    targets = inputs["labels"][:, 1:][learned]
    others = {name: value for name, value in inputs.items() if name not in ("labels", "attention_mask")}
    mask = inputs.get("attention_mask")
    if mask is not None and bool((mask[:, 1:] > mask[:, :-1]).any()):
        others["attention_mask"] = mask  # else padding stands behind the rows, where no token of theirs looks
    states = hidden_states(model, others)[:, :-1][learned]
    count = targets.numel() if num_items_in_batch is None else num_items_in_batch
    loss = Summed.apply(states, targets, causal_model(model)) / max(1, int(count))
    return (loss, {"loss": loss}) if return_outputs else loss


def causal_model(model: Any) -> Any:
    """transformers' model inside peft's, and inside that of several processes."""
    model = getattr(model, "module", model)
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def hidden_states(model: Any, inputs: dict[str, Any]) -> Tensor:
    """What the head would be given, [rows, tokens, width], by the whole model's forward: wrappers see nothing unusual."""
    kept: list[Tensor] = []

    def keep(_: Any, given: tuple[Tensor, ...]) -> tuple[Tensor]:
        kept.append(given[0])
        return (given[0][:0],)

    hook = causal_model(model).get_output_embeddings().register_forward_pre_hook(keep)
    try:
        model(**inputs, use_cache=False)
    finally:
        hook.remove()
    return kept[0]


class Summed(torch.autograd.Function):
    """Summed cross-entropy of hidden states [labels, width] under the model's head; targets [labels].

    The vocabulary goes by in slices with a running maximum and sum (arXiv 1805.02867), and each slice's pull on the states
    is taken at once: a slice stays in the cache, and no logits are kept.
    """

    @staticmethod
    def forward(ctx: Any, states: Tensor, targets: Tensor, causal: Any) -> Tensor:
        head = causal.get_output_embeddings()
        learning, count, size = ctx.needs_input_grad[0], len(targets), head.weight.shape[0]
        leaf = states.detach().to(head.weight.dtype).requires_grad_(learning)
        top = torch.full((count, 1), -torch.inf, device=states.device)
        # exp(logit - top), summed over all tokens but the label: next to 1 - p, which a good model makes small, the
        # label's own share would be lost in rounding.
        others, own = torch.zeros_like(top), torch.zeros_like(top)
        pull = torch.zeros_like(states, dtype=torch.float32)
        # A power of two: few shapes, for each of which oneDNN keeps a program.
        width = max(64, 2 ** int(math.log2(max(1, LOGITS // max(1, count)))))
        for start in range(0, size, width):
            piece = slice(start, start + width)
            with torch.set_grad_enabled(learning):
                logits = logits_of(causal, leaf, _slice(head, piece))
            shares = logits.detach().float()
            highest = torch.maximum(top, shares.amax(-1, keepdim=True))
            rows = ((targets >= start) & (targets < start + width)).nonzero()[:, 0]
            own[rows, 0] = shares[rows, targets[rows] - start]
            shares.sub_(highest).exp_()
            shares[rows, targets[rows] - start] = 0
            kept = (top - highest).exp_()
            others, top = others * kept + shares.sum(-1, keepdim=True), highest
            if learning:
                (pulled,) = torch.autograd.grad(logits, leaf, shares.to(logits.dtype))
                pull.mul_(kept).add_(pulled)
        label = (own - top).exp_()
        if learning:
            with torch.enable_grad():
                logits = logits_of(causal, leaf, _labels(head, targets))
            (pulled,) = torch.autograd.grad(logits, leaf, torch.ones_like(logits))
            pull.sub_(pulled * others).div_(others + label)
        ctx.save_for_backward(pull)
        ctx.dtype = states.dtype
        small = others < label
        return torch.where(small, (others / label).log1p(), top - own + (others + label).log()).sum()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        (pull,) = ctx.saved_tensors
        return (pull * grads[0]).to(ctx.dtype), None, None


def _slice(head: Any, piece: slice) -> Callable[[Tensor], Tensor]:
    bias = None if head.bias is None else head.bias[piece].to(head.weight.dtype)
    return lambda states: nn.functional.linear(states, head.weight[piece], bias)


def _labels(head: Any, targets: Tensor) -> Callable[[Tensor], Tensor]:
    """The product with each row's own label alone."""
    bias = 0.0 if head.bias is None else head.bias[targets].float()[:, None]
    weights = head.weight[targets].float()
    return lambda states: ((states.float() * weights).sum(-1, keepdim=True) + bias).to(states.dtype)


def logits_of(causal: Any, states: Tensor, product: Callable[[Tensor], Tensor]) -> Tensor:
    """[n, k] of hidden states [n, width], by the model's own forward, with `product` for the head's and no decoder."""
    output = BaseModelOutputWithPast(last_hidden_state=states[None])
    head = causal.get_output_embeddings()
    with _instead(causal.base_model, lambda *_, **__: output), _instead(head, product):
        logits: Tensor = causal(inputs_embeds=states[None], use_cache=False).logits[0]
    return logits


@contextmanager
def _instead(module: Any, forward: Callable[..., Any]) -> Iterator[None]:
    before = module.__dict__.get("forward")
    module.forward = forward
    try:
        yield
    finally:
        if before is None:
            del module.forward
        else:
            module.forward = before
