"""The KV states of recent catalogs, so that only the message of a request has to be read."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from threading import Lock

from cartlm.decoding.cache import State
from cartlm.decoding.trie import common_prefix
from cartlm.task.prompt import PromptBuilder, render_prompt

MIB = 2**20
BORDERS = ("", "a", "A", "1", "-", '"', "(", " a", " 1", "\n", "\na", "č", "¿")
"""How messages begin: the tokenizer may merge a beginning with what stands before it."""


def catalog_ids(builder: PromptBuilder, catalog: Sequence[str]) -> tuple[int, ...]:
    """The ids that prompts over `catalog` share, up to where the tokenizer might merge a message's beginning with them.

    They depend on the catalog alone, so that a catalog is always read in the same forward pass and an answer cannot
    depend on what was cached. The rare prompt that does not begin with them has to be read whole.
    """
    prompts = [builder.prompt_ids(render_prompt(catalog, message)) for message in BORDERS]
    return tuple(prompts[0][: common_prefix(prompts)])


class PrefixCache:
    """Saved states of one model by their token ids, at most `mib` MiB of them; the least recently used ones go first.

    Several threads may share it. `hits` and `misses` count the calls of `get`, `size` is in bytes.
    """

    def __init__(self, mib: float) -> None:
        self.bound, self.size, self.hits, self.misses = int(mib * MIB), 0, 0, 0
        self._states: OrderedDict[tuple[int, ...], State] = OrderedDict()
        self._busy = Lock()

    def get(self, ids: tuple[int, ...]) -> State | None:
        """The state that holds exactly `ids`, None where there is none."""
        with self._busy:
            state = self._states.get(ids)
            if state is None:
                self.misses += 1
                return None
            self.hits += 1
            self._states.move_to_end(ids)
            return state

    def put(self, state: State) -> None:
        """Keep a state, unless it alone exceeds the bound."""
        with self._busy:
            old = self._states.pop(state.ids, None)
            self.size -= old.size if old else 0
            if state.size > self.bound:
                return
            self._states[state.ids] = state
            self.size += state.size
            while self.size > self.bound:
                self.size -= self._states.popitem(last=False)[1].size

    def __len__(self) -> int:
        return len(self._states)

    @property
    def hit_rate(self) -> float | None:
        """Share of hits among all calls of `get`; None before the first."""
        calls = self.hits + self.misses
        return self.hits / calls if calls else None
