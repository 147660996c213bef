"""The KV cache of a transformers model."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
import transformers as hf

from cartlm.decoding.cache import State
from cartlm.engines.answer import Stopped
from cartlm.engines.transformers import Transformers


class TransformersCache(AbstractContextManager["TransformersCache"]):
    """A cache over the model of `engine`, which may answer meanwhile.

    All layers keep all places: a cache made from the config of a model with sliding windows (Gemma 3) cannot be cut back
    once it exceeds the window. transformers masks what is outside of it all the same.
    """

    def __init__(self, engine: Transformers) -> None:
        self._engine, self._cache = engine, hf.DynamicCache()
        self.ids: list[int] = []
        self.max_tokens = engine.max_positions

    def reserve(self, tokens: int) -> None:
        """Nothing to do: the cache grows."""

    @torch.inference_mode()
    def forward(self, ids: Sequence[int], wanted: Sequence[int]) -> list[Any]:
        """As `cartlm.decoding.cache.Cache.forward`; the logits are float32 arrays on the host."""
        if self._engine.stopped:
            raise Stopped
        model, start = self._engine.model, len(self.ids)
        inputs = torch.tensor([list(ids)], device=model.device)
        positions = torch.arange(start, start + len(ids), device=model.device)[None]
        places = torch.tensor(list(wanted) or [len(ids) - 1], device=model.device)
        try:
            logits = model(
                input_ids=inputs, position_ids=positions, past_key_values=self._cache, use_cache=True,
                logits_to_keep=places,
            ).logits[0]  # fmt: skip
        except BaseException:  # some layers may have read them
            self._cache, self.ids = hf.DynamicCache(), []
            raise
        self.ids += ids
        return list(logits.float().cpu().numpy())[: len(wanted)]

    def keep(self, count: int) -> None:
        """Forget all tokens but the first `count`."""
        if count < len(self.ids):
            self._cache.crop(count - len(self.ids))
            del self.ids[count:]

    @torch.inference_mode()
    def save(self) -> State:
        """A copy of all that it holds, on the model's device."""
        data = [(layer.keys.clone(), layer.values.clone()) for layer in self._cache.layers]
        return State(tuple(self.ids), data, sum(keys.nbytes + values.nbytes for keys, values in data))

    @torch.inference_mode()
    def restore(self, state: State) -> None:
        """Hold exactly what `state` does, as a copy."""
        self._cache, self.ids = hf.DynamicCache(state.data), list(state.ids)

    def __exit__(self, *_: object) -> None:
        """Nothing to free."""
