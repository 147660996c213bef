"""The rates of data.wording hold among the messages to which they apply."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from cartlm.data import rules
from tests.fixtures import fixed_params

DATA = fixed_params.load().data


def packable(draft: rules.Draft) -> bool:
    line = next(line for line in draft.catalog if line.text == draft.intent.product)
    quantity = draft.intent.quantity
    return quantity in (6, 12, 24) or (quantity == 2 and not line.product.plural_only)


def corrected(draft: rules.Draft) -> bool:
    return draft.tags["correction"] == "quantity"


APPLIES: dict[str, tuple[str, str, Callable[[rules.Draft], bool]]] = {
    "quantity_word": ("quantity_form", "word", lambda draft: draft.tags["quantity_form"] in ("digit", "word")),
    "quantity_pack": ("quantity_form", "pack", lambda draft: packable(draft) and not corrected(draft)),
    "quantity_none": ("quantity_form", "none", lambda draft: draft.intent.quantity == 1 and not corrected(draft)),
    "switch_frame": ("switch", "frame", lambda draft: True),
    "switch_number": (
        "switch", "number",
        lambda draft: draft.tags["quantity_form"] == "word" and draft.tags["switch"] != "frame",
    ),
}  # fmt: skip
"""Rate -> the tag and its value, and the messages to which the rate applies."""


@pytest.mark.parametrize("rate", [0.0, 0.2, 1.0])
@pytest.mark.parametrize(
    "keys", [("quantity_word", "quantity_pack", "quantity_none"), ("switch_number",), ("switch_frame",)]
)
def test_wording_rates_hold(keys: tuple[str, ...], rate: float) -> None:
    wording = DATA.wording.model_copy(update={"quantity_word": 1.0} | dict.fromkeys(keys, rate))
    data = DATA.model_copy(update={"wording": wording})
    rng = random.Random(3)
    drafts = [rules.draft(data.languages[i % 3], "add", False, data, rng) for i in range(1500)]
    for key in keys:
        tag, value, applies = APPLIES[key]
        hits = [draft.tags[tag] == value for draft in drafts if applies(draft)]
        assert len(hits) > 200
        tolerance = 4 * (0.25 / len(hits)) ** 0.5 if 0 < rate < 1 else 0
        assert abs(sum(hits) / len(hits) - rate) <= tolerance
