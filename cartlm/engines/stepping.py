"""From token to token in the transformers engine, with a growing cache or one of fixed size.

A growing cache is copied at each token. One of fixed size stays in place, so that on a CUDA card a whole step can be
recorded as a CUDA graph and replayed, without the hundreds of launches that dominate small models at batch 1.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
import transformers as hf

WARM_UPS = 3  # steps before a graph is recorded: libraries choose and load their kernels there


def likeliest(logits: Any) -> Any:
    """[2, rows] float64: of [rows, vocabulary] the highest of each row, and its index; in one tensor, so that one copy
    to the host brings both.
    """
    best, token = logits.max(dim=-1)
    return torch.stack([best.double(), token.double()])


def _forward(model: Any, ids: Any, mask: Any, positions: Any, cache: Any) -> Any:
    """`likeliest` of the last place of each row."""
    return likeliest(
        model(
            input_ids=ids, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True,
            logits_to_keep=1,
        ).logits[:, -1]
    )  # fmt: skip


class GrowingCache:
    """One batch of prompts, [rows, longest] padded on the left, `mask` 1 on their tokens."""

    def __init__(self, model: Any) -> None:
        self.model, self.cache = model, hf.DynamicCache(config=model.config)

    def prefill(self, ids: Any, mask: Any) -> Any:
        """The likeliest token after each prompt, as `likeliest` gives it."""
        self.mask, self.positions = mask, (mask.cumsum(-1) - 1).clamp(min=0)
        return _forward(self.model, ids, self.mask, self.positions, self.cache)

    def step(self, tokens: list[int]) -> Any:
        """The same after one more token of each row."""
        self.mask = torch.cat([self.mask, self.mask.new_ones((len(tokens), 1))], dim=1)
        self.positions = self.positions[:, -1:] + 1
        return _forward(
            self.model, self.mask.new_tensor(tokens)[:, None], self.mask, self.positions, self.cache
        )


class FixedCache:
    """A cache for `rows` rows of at most `length` tokens, used for one batch after the other.

    On a CUDA card a step is a CUDA graph, recorded here and compared with single launches: a kernel that is launched on
    another stream than torch's (ExLlamaV2's) would not be in it. `reason` says why there is none.
    """

    def __init__(self, model: Any, rows: int, length: int) -> None:
        self.model, self.rows, self.length = model, rows, length
        config, self.window = model.config, 0
        if "sliding_attention" in (getattr(config, "layer_types", None) or ()):  # Gemma 3
            # every layer keeps all places; those outside of its window are masked
            self.window = int(config.sliding_window)
            config = copy.deepcopy(config)
            config.layer_types = ["full_attention"] * config.num_hidden_layers
        self.cache = hf.StaticCache(config=config, max_cache_len=length)
        device = model.device
        self.ids = torch.zeros((rows, 1), dtype=torch.long, device=device)
        self.positions = torch.zeros((rows, 1), dtype=torch.long, device=device)
        self.attended = torch.zeros((rows, 1, 1, length), dtype=torch.bool, device=device)  # to which places
        self.near = torch.ones(length, dtype=torch.bool, device=device)  # to which within the window
        self.graph: Any = None
        self.reason = "" if device.type == "cuda" else f"no CUDA graphs on {device.type}"
        if not self.reason:
            try:
                self._record()
            except RuntimeError as error:  # a kernel that waits for the host cannot be recorded
                self.reason = f"not recorded: {str(error).splitlines()[0][:100]}"
            else:
                self.reason = "" if self._replays() else "not replayed: the graph computes otherwise"
            if self.reason:
                self.graph = None

    def _record(self) -> None:
        ids = self.ids.expand(self.rows, 2)
        self.prefill(ids, torch.ones_like(ids))  # the cache's tensors take their places
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARM_UPS):
                self._step()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self.graph_output = self._step()
        self.graph = graph

    def _replays(self) -> bool:
        """Whether the graph computes what single launches do, on other tokens than it was recorded with."""
        graph, outputs = self.graph, []
        ids = self.ids.new_full((self.rows, 2), 7)
        for self.graph in (None, graph):
            self.prefill(ids, torch.ones_like(ids))
            outputs.append(self.step([11] * self.rows).clone())
        (best, tokens), (best_replayed, tokens_replayed) = outputs
        return bool(torch.allclose(best, best_replayed, rtol=1e-2) and torch.equal(tokens, tokens_replayed))

    def prefill(self, ids: Any, mask: Any) -> Any:
        """As `GrowingCache.prefill`; what an earlier batch left in the cache is hidden, and overwritten."""
        rows, longest = ids.shape
        if rows != self.rows or longest >= self.length:
            raise ValueError(f"{rows} rows of {longest} tokens for {self.rows} rows of {self.length}")
        layers: list[Any] = self.cache.layers
        for layer in layers:
            layer.cumulative_length.zero_()
        self.attended.zero_()
        self.near.fill_(True)
        self.attended[:, 0, 0, :longest] = mask.bool()
        causal = torch.ones((longest, self.length), dtype=torch.bool, device=ids.device).tril()
        # a padded place attends to itself: to nothing at all would be NaN
        itself = torch.eye(longest, self.length, dtype=torch.bool, device=ids.device)
        allowed = (causal & self.attended) | itself
        near = causal.triu(1 - self.window)
        positions = (mask.cumsum(-1) - 1).clamp(min=0)
        self.positions.copy_(positions[:, -1:])
        self.at = longest
        return _forward(self.model, ids, self._masks(allowed, near), positions, self.cache)

    def step(self, tokens: list[int]) -> Any:
        """As `GrowingCache.step`. Raises ValueError when the cache is full."""
        if self.at >= self.length:
            raise ValueError(f"the cache holds {self.length} tokens")
        self.ids.copy_(torch.tensor(tokens)[:, None])
        self.positions.add_(1)
        self.attended[:, 0, 0, self.at] = True
        self.at += 1
        self.near[: max(0, self.at - self.window)] = False
        if self.graph is None:
            return self._step()
        self.graph.replay()
        return self.graph_output

    def _step(self) -> Any:
        masks = self._masks(self.attended, self.near)
        return _forward(self.model, self.ids, masks, self.positions, self.cache)

    def _masks(self, allowed: Any, near: Any) -> Any:
        """One mask, or one a type of layer where some have a window."""
        if not self.window:
            return self._mask(allowed)
        return {"full_attention": self._mask(allowed), "sliding_attention": self._mask(allowed & near)}

    def _mask(self, allowed: Any) -> Any:
        """Added to the scores: 0 where a place may be attended to, else the least number there is."""
        dtype = self.model.dtype
        zero = torch.zeros((), dtype=dtype, device=allowed.device)
        return torch.where(allowed, zero, torch.finfo(dtype).min)
