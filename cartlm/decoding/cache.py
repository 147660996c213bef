"""What decoding asks of a loaded model: the KV cache of one sequence, which can be cut back, saved and restored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True, slots=True)
class State:
    """A saved cache: its token ids, its keys and values in the model's own form, and how many bytes these take."""

    ids: tuple[int, ...]
    data: Any
    size: int


class Cache(Protocol):
    """The keys and values of one sequence of tokens."""

    ids: list[int]
    """The tokens it holds."""

    max_tokens: int
    """How many the model was made to read."""

    def reserve(self, tokens: int) -> None:
        """Make room for a sequence of `tokens`; what the cache holds may be lost. Raises UserError where that fails."""
        ...

    def forward(self, ids: Sequence[int], wanted: Sequence[int]) -> Sequence[Any]:
        """Read `ids` in one forward pass: logits [vocabulary] after each of the places `wanted` in `ids`.

        They are valid until the next call. Raises cartlm.engines.answer.Stopped once the engine is stopped.
        """
        ...

    def keep(self, count: int) -> None:
        """Forget all tokens but the first `count`."""
        ...

    def save(self) -> State:
        """A copy of all that it holds."""
        ...

    def restore(self, state: State) -> None:
        """Hold exactly what `state` does."""
        ...
