"""Guided attention: while training, chosen heads learn where to look; the model stays a plain Llama.

A few heads get a second loss, the negative log of the attention that falls on any right place (guided alignment,
Chen et al., arXiv 1607.01628, with a set of right places instead of one). The text gives them: which catalog line a
message means, and from where each token of an answer is copied.

Looking at the right line is not enough: what is copied has to be passed on. So the input of a guided layer is also read
as if it were the last one (deep supervision, Lee et al., arXiv 1409.5185), at places that must know a token by then.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

Places = list[tuple[int, list[int]]]
"""(position that looks, positions any of which is right), within one document."""
Targets = list[tuple[int, int]]
"""(position, id of the token that is to be known there), within one document."""


class Guide:
    """Keeps the inputs of the guided layers' attention during a forward pass, one set a thread."""

    def __init__(self, model: Any, layers: Sequence[int]) -> None:
        self._kept = threading.local()
        for layer in layers:
            model.model.layers[layer].self_attn.register_forward_pre_hook(self._keep(layer), with_kwargs=True)
        self._model = model

    def _keep(self, layer: int) -> Any:
        def hook(_module: Any, _args: Any, kwargs: dict[str, Any]) -> None:
            inputs = self._kept.__dict__.setdefault("inputs", {})
            inputs[layer] = kwargs["hidden_states"], kwargs["position_embeddings"]

        return hook

    def attention_loss(self, layer: int, head: int, places: Sequence[Places]) -> Any:
        """Summed -log attention of `head` on the right places; `places` has an entry per document of the batch."""
        import torch
        from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

        hidden, (cos, sin) = self._kept.inputs[layer]
        attention = self._model.model.layers[layer].self_attn
        size = attention.head_dim
        rows = slice(head * size, (head + 1) * size)
        group = attention.q_proj.out_features // attention.k_proj.out_features
        shared = slice(head // group * size, (head // group + 1) * size)
        query = torch.nn.functional.linear(hidden, attention.q_proj.weight[rows]).unsqueeze(1)
        key = torch.nn.functional.linear(hidden, attention.k_proj.weight[shared]).unsqueeze(1)
        query, key = apply_rotary_pos_emb(query, key, cos, sin)
        scores = (query[:, 0] @ key[:, 0].transpose(1, 2)).float() * size**-0.5  # (documents, tokens, tokens)
        looks = [(document, *place) for document, found in enumerate(places) for place in found]
        if not looks:
            return scores.sum() * 0.0
        sources = [columns for _, _, columns in looks]
        right = torch.zeros((len(looks), scores.shape[2]), dtype=torch.bool)
        for index, columns in enumerate(sources):
            right[index, columns] = True
        right = right.to(scores.device)
        documents, positions = torch.tensor([look[:2] for look in looks], device=scores.device).T
        later = torch.arange(scores.shape[2], device=scores.device) > positions[:, None]
        chosen = scores[documents, positions].masked_fill(later, float("-inf"))
        return (chosen.logsumexp(1) - chosen.masked_fill(~right, float("-inf")).logsumexp(1)).sum()

    def reading_loss(self, layer: int, targets: Sequence[Targets]) -> Any:
        """Summed cross-entropy of the tokens to be known at `layer`'s input, read with the output embeddings;
        `targets` has an entry per document of the batch.
        """
        import torch

        hidden, _ = self._kept.inputs[layer]
        known = [(document, *target) for document, found in enumerate(targets) for target in found]
        if not known:
            return hidden.sum() * 0.0
        documents, positions, tokens = (
            torch.tensor(part, device=hidden.device) for part in zip(*known, strict=True)
        )
        logits = self._model.lm_head(hidden[documents, positions])
        return torch.nn.functional.cross_entropy(logits.float(), tokens, reduction="sum")
