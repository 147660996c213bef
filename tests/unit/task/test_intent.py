"""The label: canonical JSON, and how any text at all is read."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cartlm.task.intent import ACTIONS, NO_ORDER, Intent, parse_intent

PRODUCTS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1)
INTENTS = st.builds(Intent, st.sampled_from(ACTIONS), PRODUCTS, st.integers(1, 10**12))
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
)


def test_canonical_is_the_published_form() -> None:
    wanted = '{"action": "add", "product": "Jabón 1 l", "quantity": 2}'
    assert Intent("add", "Jabón 1 l", 2).canonical() == wanted


@given(INTENTS)
def test_canonical_is_read_back(wish: Intent) -> None:
    assert parse_intent(wish.canonical()) == wish


@given(INTENTS, st.permutations(["action", "product", "quantity"]), st.sampled_from([None, 1, "\t"]))
def test_white_space_and_key_order_are_free(wish: Intent, order: list[str], indent: int | str | None) -> None:
    assert parse_intent(json.dumps({key: getattr(wish, key) for key in order}, indent=indent)) == wish


@given(
    st.text()
    | JSON.map(json.dumps)
    | INTENTS.map(Intent.canonical).flatmap(lambda t: st.just(t[: len(t) // 2]))
)
def test_any_text_reads_or_raises_value_error(text: str) -> None:
    try:
        found = parse_intent(text)
    except ValueError:
        return
    assert parse_intent(found.canonical()) == found


@given(st.dictionaries(st.sampled_from(["action", "product", "quantity"]), JSON).map(json.dumps))
def test_fields_of_any_type_read_or_raise_value_error(text: str) -> None:
    try:
        found = parse_intent(text)
    except ValueError:
        return
    assert found == NO_ORDER or (found.action in ACTIONS and found.product and found.quantity >= 1)


def test_no_order_has_one_form() -> None:
    text = '{"action": "none", "product": "", "quantity": 0}'
    assert NO_ORDER.canonical() == text
    assert parse_intent(text) == parse_intent('{"quantity": 0, "product": "", "action": "none"}') == NO_ORDER


@pytest.mark.parametrize(
    "text",
    [
        "", "null", "[]", '"add"', "{}", '{"action": "add"}',
        '{"action": "add", "product": "x", "quantity": 1} ok',
        '{"action": "add", "product": "x", "quantity": 1, "unit": "l"}',
        '{"action": "add", "action": "remove", "product": "x", "quantity": 1}',
        '{"action": "buy", "product": "x", "quantity": 1}', '{"action": "add", "product": "", "quantity": 1}',
        '{"action": "add", "product": ["x"], "quantity": 1}', '{"action": [], "product": "x", "quantity": 1}',
        '{"action": "none", "product": "x", "quantity": 0}', '{"action": "none", "product": "", "quantity": 1}',
        '{"action": "none", "product": "", "quantity": false}', '{"action": "none", "product": null, "quantity": 0}',
        '{"action": "none", "product": "", "quantity": 0.0}', '{"action": "none", "product": "", "quantity": ""}',
        '{"action": "add", "product": "", "quantity": 0}', '{"action": "none"}',
        '{"action": "add", "product": "x", "quantity": 0}', '{"action": "add", "product": "x", "quantity": -1}',
        '{"action": "add", "product": "x", "quantity": 1.0}', '{"action": "add", "product": "x", "quantity": "1"}',
        '{"action": "add", "product": "x", "quantity": true}', '{"action": "add", "product": "x", "quantity": NaN}',
        '{"action": "add", "product": "x", "quantity": ' + "9" * 5000 + "}", "[" * 100_000,
    ],
)  # fmt: skip
def test_what_is_no_intent_raises_value_error(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  any ValueError means unparseable
        parse_intent(text)
