"""The KV cache of a llama.cpp model, through the low-level binding."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

import llama_cpp as c
import numpy as np

from cartlm.decoding.cache import State
from cartlm.engines.answer import Stopped
from cartlm.engines.llama_cpp import CONTEXT_STEP, LlamaCpp
from cartlm.errors import UserError

SEQUENCE = 0


class LlamaCppCache(AbstractContextManager["LlamaCppCache"]):
    """A context of its own over the weights of `engine`, which must stay open; close it first, best by a `with` block.

    The engine itself may answer meanwhile. Layers with a sliding window keep all places, so that they can be cut back.
    """

    def __init__(self, engine: LlamaCpp, tokens: int = 1024) -> None:
        self._engine, self._context, self._batch = engine, None, None
        self.ids: list[int] = []
        self._room = 0
        self.max_tokens = int(c.llama_model_n_ctx_train(engine._model))
        self.reserve(tokens)

    def reserve(self, tokens: int) -> None:
        """Make room for `tokens`; a larger context replaces the old one and is empty. Raises UserError where it fails."""
        if tokens <= self._room:
            return
        self.close()
        settings = c.llama_context_default_params()
        settings.n_ctx = settings.n_batch = -(-tokens // CONTEXT_STEP) * CONTEXT_STEP
        settings.n_threads = settings.n_threads_batch = self._engine.threads
        settings.no_perf = settings.swa_full = True
        # llama.cpp's own choice is up to 3.6 times slower in passes of 8 to 63 tokens (docs/decisions/speed.md)
        settings.flash_attn_type = c.LLAMA_FLASH_ATTN_TYPE_DISABLED
        self._context = c.llama_init_from_model(self._engine._model, settings)
        if not self._context:
            raise UserError(
                f"{self._engine.path} does not run with {tokens} tokens, for lack of memory",
                "send a shorter catalog or message",
            )
        self._room = int(c.llama_n_ctx(self._context))
        self._batch = c.llama_batch_init(self._room, 0, 1)
        for place in range(self._room):
            self._batch.n_seq_id[place] = 1
            self._batch.seq_id[place][0] = SEQUENCE

    def forward(self, ids: Sequence[int], wanted: Sequence[int]) -> list[Any]:
        """As `cartlm.decoding.cache.Cache.forward`. Raises ValueError where `reserve` made less room."""
        if self._engine.stopped:
            raise Stopped
        start, count = len(self.ids), len(ids)
        if not 0 < count <= self._room - start:
            raise ValueError(f"{count} tokens for a cache of {self._room} that holds {start}")
        batch: Any = self._batch
        batch.n_tokens = count
        np.ctypeslib.as_array(batch.token, (count,))[:] = ids
        np.ctypeslib.as_array(batch.pos, (count,))[:] = range(start, start + count)
        flags = np.ctypeslib.as_array(batch.logits, (count,))
        flags[:] = 0
        flags[list(wanted)] = 1
        self.ids += (
            ids  # before it is true: after an interruption too, `keep` forgets what the model has read
        )
        if (status := c.llama_decode(self._context, batch)) != 0:
            raise RuntimeError(f"llama_decode of {count} tokens returned {status}")
        shape = (self._engine.vocabulary,)
        return [
            np.ctypeslib.as_array(c.llama_get_logits_ith(self._context, place), shape) for place in wanted
        ]

    def keep(self, count: int) -> None:
        """Forget all tokens but the first `count`. Raises RuntimeError for a model without a cache that can be cut back."""
        if count >= len(self.ids):
            return
        if not c.llama_memory_seq_rm(c.llama_get_memory(self._context), SEQUENCE, count, -1):
            raise RuntimeError(f"{self._engine.path}: its cache cannot be cut back")
        del self.ids[count:]

    def save(self) -> State:
        """A copy of all that it holds, in the main memory."""
        size = c.llama_state_seq_get_size(self._context, SEQUENCE)
        data = (ctypes.c_uint8 * size)()
        if c.llama_state_seq_get_data(self._context, data, size, SEQUENCE) != size:
            raise RuntimeError(f"{self._engine.path}: its cache cannot be saved")
        return State(tuple(self.ids), data, size)

    def restore(self, state: State) -> None:
        """Hold exactly what `state` does, at the same places."""
        c.llama_memory_clear(c.llama_get_memory(self._context), False)
        self.ids = []
        if not c.llama_state_seq_set_data(self._context, state.data, state.size, SEQUENCE):
            raise RuntimeError(f"{self._engine.path}: a saved cache cannot be restored")
        self.ids = list(state.ids)

    def close(self) -> None:
        """Free the context; a second call does nothing."""
        if self._context is not None:
            c.llama_batch_free(self._batch)
            c.llama_free(self._context)
        self._context, self._batch, self._room, self.ids = None, None, 0, []

    def __exit__(self, *_: object) -> None:
        self.close()
