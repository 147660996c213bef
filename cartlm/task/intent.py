"""The label: what a shopper wants, its canonical JSON, and how a model's answer is parsed."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any, Literal

Action = Literal["add", "remove"]
ACTIONS: tuple[Action, ...] = ("add", "remove")
"""Of orders."""
NONE = "none"
"""The action of a message that is no order; models know it where `decoding.none` is on."""
KEYS = ("action", "product", "quantity")


@dataclass(frozen=True)
class Intent:
    """One shopper's wish: add or remove `quantity` (>= 1) of the catalog line `product`. Or NO_ORDER, which has neither."""

    action: str
    product: str
    quantity: int

    def canonical(self) -> str:
        """The completion, byte for byte as in the published dataset (key order, default JSON spacing)."""
        return json.dumps(asdict(self), ensure_ascii=False)


NO_ORDER = Intent(NONE, "", 0)


def no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object whose keys all differ, for `object_pairs_hook`. Raises ValueError."""
    keys = [key for key, _ in pairs]
    if len(set(keys)) != len(keys):
        raise ValueError(f"the key {max(keys, key=keys.count)!r:.60} occurs twice")
    return dict(pairs)


def parse_intent(text: str) -> Intent:
    """The intent in an answer.

    The whole answer is one flat JSON object with exactly the three keys; white space and key order are free. NO_ORDER has
    this form alone: no product, quantity 0. Raises ValueError that names the fault, never anything else.
    """
    try:
        value = json.loads(text, object_pairs_hook=no_duplicates)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if not isinstance(value, dict):
        raise ValueError("not a JSON object")
    if set(value) != set(KEYS):
        raise ValueError(f"keys are {sorted(value)}, not {sorted(KEYS)}")
    action, product, quantity = (value[key] for key in KEYS)
    if action == NONE:
        if product != "" or isinstance(quantity, bool) or not isinstance(quantity, int) or quantity != 0:
            raise ValueError(f"{NONE} with product {product!r} and quantity {quantity!r}, not '' and 0")
        return NO_ORDER
    if action not in ACTIONS:
        raise ValueError(f"action is {action!r}, not add or remove")
    if not isinstance(product, str) or not product:
        raise ValueError(f"product is {product!r}, not a catalog line")
    if isinstance(quantity, bool) or not isinstance(quantity, int) or quantity < 1:
        raise ValueError(f"quantity is {quantity!r}, not a positive integer")
    return Intent(action, product, quantity)
