"""Answer formats of the pretraining text: JSON, key=value and lines, with random keys, orders and words."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass

from cartlm.task.intent import Intent

_KEYS = {
    "action": [
        "action", "op", "do", "act", "verb", "what", "type", "mode", "task", "change", "intent",
        "a", "step", "cmd",
    ],
    "product": [
        "product", "item", "name", "line", "article", "thing", "entry", "p", "good", "title",
        "which", "ware", "pick",
    ],
    "quantity": [
        "quantity", "n", "count", "amount", "qty", "number", "q", "units", "pieces", "total",
        "how_many", "num",
    ],
}  # fmt: skip
_WORDS = [
    ("add", "remove"), ("add", "remove"), ("put", "drop"), ("+", "-"), ("in", "out"), ("plus", "minus"),
    ("buy", "cancel"), ("insert", "delete"), ("yes", "no"), ("keep", "toss"), ("up", "down"), ("want", "skip"),
    ("1", "0"), ("ADD", "DEL"),
]  # fmt: skip
_FIELDS = ("action", "product", "quantity")


@dataclass(frozen=True)
class Format:
    """How an answer is written: `kind`, the order of the fields, their keys, the words for add and remove."""

    kind: str  # json, compact, pairs, lines, bare
    order: tuple[str, ...]
    keys: tuple[str, ...]
    words: tuple[str, str]

    @property
    def is_target(self) -> bool:
        """Whether this is the completion of the task itself, in keys, words and kind."""
        return self.kind == "json" and set(self.keys) == set(_FIELDS) and self.words == ("add", "remove")

    def render(self, intent: Intent) -> str:
        """The answer for an intent."""
        return self._write(self.words[intent.action == "remove"], intent.product, intent.quantity)

    def header(self) -> str:
        """The line that asks for this format: the same rendering with the choices in place of the values."""
        choices = self._write("|".join(self.words), "...", 0).replace("\n", " / ")
        return f"Format: {choices}\n"

    def _write(self, action: str, product: str, quantity: int) -> str:
        values = {"action": action, "product": product, "quantity": quantity}
        pairs = [(key, values[field]) for key, field in zip(self.keys, self.order, strict=True)]
        if self.kind in ("json", "compact"):
            separators = (",", ":") if self.kind == "compact" else None
            return json.dumps(dict(pairs), ensure_ascii=False, separators=separators)
        if self.kind == "pairs":
            return "; ".join(f"{key}={value}" for key, value in pairs)
        if self.kind == "lines":
            return "\n".join(f"{key}: {value}" for key, value in pairs)
        return " | ".join(str(value) for _, value in pairs)


TARGET = Format("json", _FIELDS, _FIELDS, ("add", "remove"))
TARGET_HEADER = TARGET.header()
"""cartlm.task.prompt.FORMAT_HEADER, which the evaluation puts before the prompt."""
"""In front of a prompt it asks the base model for the completion of the task."""


def sample(rng: random.Random) -> Format:
    """A random format that is never the target's."""
    while True:
        kind = rng.choices(("json", "compact", "pairs", "lines", "bare"), (0.5, 0.1, 0.15, 0.1, 0.15))[0]
        order = list(_FIELDS)
        rng.shuffle(order)
        # always with the product, which has to be copied
        order = [field for field in order if field == "product" or rng.random() < 0.85]
        keys = tuple(rng.choice(_KEYS[field]) for field in order)
        chosen = Format(kind, tuple(order), keys, rng.choice(_WORDS))
        if not chosen.is_target:
            return chosen
