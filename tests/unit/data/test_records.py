"""One record as a row: catalogs, products, numbers and signs as people write them."""

from __future__ import annotations

import json
import re
import unicodedata
from decimal import Decimal
from typing import Any

import numpy as np
import pytest

from cartlm.data import records
from cartlm.task.intent import NO_ORDER
from cartlm.task.prompt import render_prompt

LANGUAGES = ["english", "croatian", "spanish"]


def record(**changes: Any) -> dict[str, Any]:
    given = {
        "catalog": ["Tea", "Café 1 l"],
        "message": "two teas",
        "action": "add",
        "product": "Tea",
        "quantity": 2,
    }
    return {**given, "language": "english", **changes}


def row(**changes: Any) -> Any:
    return records.as_row("x-00001", record(**changes), LANGUAGES)


@pytest.mark.parametrize(("product", "quantity"), [("", 0), ("", ""), (" ", "0"), ("", 0.0)])
def test_no_order_names_nothing(product: str, quantity: Any) -> None:
    given = record(action="none", product=product, quantity=quantity)
    assert records.as_row("x", given, LANGUAGES, none=True).intent == NO_ORDER
    assert records.as_row("x", record(), LANGUAGES, none=True).intent.product == "Tea"


@pytest.mark.parametrize(
    ("changes", "none", "says"),
    [
        ({"product": "Tea", "quantity": 0}, True, "none with product 'Tea' and quantity 0: leave both empty"),
        ({"product": "", "quantity": 2}, True, "none with product '' and quantity 2: leave both empty"),
        ({"product": "Tea", "quantity": 0}, False, "action is 'none', not add or remove"),
        ({"product": "", "quantity": 0}, False, "nothing in product"),
    ],
)
def test_no_order_is_refused(changes: dict[str, Any], none: bool, says: str) -> None:
    with pytest.raises(ValueError, match=re.escape(says)):
        records.as_row("x", record(action="none", **changes), LANGUAGES, none=none)


def test_no_order_in_the_published_layout_is_refused() -> None:
    prompt = render_prompt(["Tea"], "hello")
    given = {"prompt": prompt, "completion": NO_ORDER.canonical(), "language": "english"}
    with pytest.raises(ValueError, match="action is 'none', not add or remove"):
        records.as_row("x", given, LANGUAGES)


@pytest.mark.parametrize(
    ("catalog", "lines"),
    [
        (["Tea", "Milk"], ["Tea", "Milk"]),
        (("Tea", "Milk"), ["Tea", "Milk"]),
        ("Tea", ["Tea"]),
        ("Tea\nMilk", ["Tea", "Milk"]),
        ("Tea\r\nMilk\r\n", ["Tea", "Milk"]),
        ("Tea\rMilk", ["Tea", "Milk"]),
        ("Tea | Milk", ["Tea", "Milk"]),
        ("Tea\nMilk | Oat", ["Tea", "Milk | Oat"]),
        ("Tea\nMil\u2028k", ["Tea", "Mil\u2028k"]),
        ("Tea\nMil\u2029k", ["Tea", "Mil\u2029k"]),
        ("['Tea', 'Milk']", ["Tea", "Milk"]),
        (" ('Tea', \"Milk's\") ", ["Tea", "Milk's"]),
        ("['Tea', 'Milk | Oat']", ["Tea", "Milk | Oat"]),
        ("Tea\n('Milk')", ["Tea", "('Milk')"]),
        ('["Tea", "Milk"]', ["Tea", "Milk"]),
        ("['Tea',\n 'Milk']", ["Tea", "Milk"]),
        ("Tea\n[sale] Milk [1]", ["Tea", "[sale] Milk [1]"]),
        ("[new] Milk [1]\nTea\n(x)", ["[new] Milk [1]", "Tea", "(x)"]),
    ],
)
def test_a_catalog_is_read(catalog: Any, lines: list[str]) -> None:
    made = row(catalog=catalog)
    assert made.catalog == lines
    assert made.prompt == render_prompt(lines, "two teas")


@pytest.mark.parametrize(
    ("catalog", "words"),
    [
        ("Tea, Milk", "one line"),
        ("[Tea, Milk]", "one line"),
        ("Tea|Milk", "one line"),
        ("['Tea' 'Milk']", "lacks a comma"),
        ("[1, 2]", "not a list"),
        ('[{"name": "Tea"}]', "not a list"),
        ("[]", "not a catalog line"),
        ("Tea\n\nMilk", "empty"),
        ("[" * 5000 + "]" * 5000, "not a catalog line"),
        (["Tea", "Milk\rOat"], "line break"),
        ("Tea\nMil\x0bk", "U+000B"),
        ("Tea\nMil\x1ck", "U+001C"),
        ("Tea\nMil\x85k", "U+0085"),
    ],
)
def test_what_is_no_catalog_is_named(catalog: Any, words: str) -> None:
    with pytest.raises(ValueError, match=r".") as caught:
        row(catalog=catalog)
    assert words in str(caught.value)


def test_a_product_that_holds_a_bar() -> None:
    """The label says how one line is cut; where another label forbids the cut, the row is refused."""
    one = {"catalog": "Tea | Green", "product": "Tea | Green"}
    assert row(**one).catalog == ["Tea | Green"]
    assert row(catalog="Tea | Green", product="Tea").catalog == ["Tea", "Green"]
    assert row(catalog="['Tea | Green']", product="Tea | Green").catalog == ["Tea | Green"]
    with pytest.raises(ValueError, match="not a catalog line"):
        row(catalog="['Tea | Green']", product="Tea")
    with pytest.raises(ValueError, match="not a catalog line"):
        row(catalog="Tea | Green | Milk", product="Tea | Green")
    several = record(catalog="Tea | Green | Milk", product="Milk")
    barred = records.products_with_bars([record(**one), several, record(product=7)])
    assert barred == {"Tea | Green"}
    with pytest.raises(ValueError, match=r"holds ' \| '"):
        records.as_row("x-1", several, LANGUAGES, barred)
    assert records.as_row("x-1", record(**one), LANGUAGES, barred).intent.product == "Tea | Green"
    lined = record(catalog="Tea | Green\nMilk", product="Milk")
    assert records.as_row("x-1", lined, LANGUAGES, barred).catalog == ["Tea | Green", "Milk"]


NFD = unicodedata.normalize("NFD", "Café 1 l")


@pytest.mark.parametrize("product", ["Café 1 l", NFD, "Café 1\u00a0l", " Café  1 l\n", "Café\u20281 l"])
@pytest.mark.parametrize("line", ["Café 1 l", NFD, "Café\u00a01 l"])
def test_the_label_has_the_catalogs_own_bytes(product: str, line: str) -> None:
    made = row(catalog=["Tea", line], product=product)
    assert made.intent.product == line
    assert made.catalog == ["Tea", line]
    published = {"prompt": render_prompt(["Tea", line], "two"), "language": "english"}
    published["completion"] = json.dumps(
        {"action": "add", "product": product, "quantity": 2}, ensure_ascii=False
    )
    assert records.as_row("x-1", published, LANGUAGES).completion == made.completion


@pytest.mark.parametrize(
    ("product", "line", "sign"),
    [
        ("Green\u200b tea", "Green tea", "U+200B"),
        ("Green tea", "Green\u00ad tea", "U+00AD"),
        ("Gr\u0435en tea", "Green tea", "U+0435"),
        ("\ufeffGreen tea", "Green tea", "U+FEFF"),
        ("Cafe 1 l", "Café 1 l", "U+00E9"),
        ("x" * 150 + "\u200d", "x" * 150, "U+200D"),
    ],
)
def test_the_nearest_line_is_told_from_the_product(product: str, line: str, sign: str) -> None:
    with pytest.raises(ValueError, match="the nearest is") as caught:
        row(catalog=["Tea", line], product=product)
    assert sign in str(caught.value)


@pytest.mark.parametrize("twin", [NFD, "Café\u00a01 l", "Café  1 l", "Café 1 l"])
def test_lines_that_look_the_same_are_refused(twin: str) -> None:
    with pytest.raises(ValueError, match="occurs twice"):
        row(catalog=["Tea", "Café 1 l", twin])


@pytest.mark.parametrize(
    ("given", "quantity"),
    [
        (2, 2), (2.0, 2), ("2", 2), (" 2 ", 2), ("2.0", 2), ("2,0", 2), ("2.00", 2), ("02", 2), ("２", 2), ("٢", 2),
        (np.int64(2), 2), (np.float32(2), 2), (np.float64(2), 2), (Decimal("2.0"), 2), (999_999, 999_999),
    ],
)  # fmt: skip
def test_a_whole_number_is_read(given: Any, quantity: int) -> None:
    made = row(quantity=given).intent.quantity
    assert (made, type(made)) == (quantity, int)


@pytest.mark.parametrize(
    "given",
    [
        2.5, "2.5", 0, "0", -1, "-1", "+2", True, "true", "two", float("nan"), float("inf"), json.loads("1e400"), "1e400",
        "1,000", "1.000", "1 000", 1_000_000, 10**400, "9" * 5000, 1e18, "²", "½", [2], {}, np.float64(2.5), np.bool_(True),
        Decimal("NaN"), Decimal("sNaN"), Decimal("2.5"), "2x", "0x2",
    ],
)  # fmt: skip
def test_what_is_no_whole_number_is_named(given: Any) -> None:
    with pytest.raises(ValueError, match="quantity is "):
        row(quantity=given)


@pytest.mark.parametrize("message", ["two teas\nplease", "two teas\r\nplease", "two teas\rplease"])
def test_line_ends_within_a_message_are_one(message: str) -> None:
    assert row(message=message).message == "two teas\nplease"


@pytest.mark.parametrize(
    "sign", ["\U0001fa77", "\U0001fae8", "\u200d", "\ufe0f", "\u2028", "\U0001f9d1\u200d\U0001f4bb", "\u0378"]
)
def test_signs_that_a_message_may_have(sign: str) -> None:
    assert row(message=f"two teas {sign}").message == f"two teas {sign}"


@pytest.mark.parametrize(
    "sign",
    [
        "\ufdd0",
        "\ufdef",
        "\ufffe",
        "\uffff",
        "\U0001fffe",
        "\U0010ffff",
        "\ud83d",
        "\x00",
        "\x7f",
        "\x85",
        "\ue000",
        "\uf8ff",
    ],
)
def test_signs_that_no_message_has(sign: str) -> None:
    with pytest.raises(ValueError, match=f"U\\+{ord(sign):04X}"):
        row(message=f"two teas {sign}")


@pytest.mark.parametrize("text", ["['Milk' 'Bread', 'Eggs']", "('Milk'\n'Bread')", "['Milk 1L' 'Bread']"])
def test_a_list_that_lacks_a_comma_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="lacks a comma"):
        row(catalog=text, product="Eggs")


@pytest.mark.parametrize("catalog", ["Milk | 1L\nBread", ["Milk | 1L", "Bread"], "['Milk | 1L', 'Bread']"])
def test_a_catalog_of_several_lines_shows_that_a_bar_is_part_of_a_name(catalog: Any) -> None:
    barred = records.products_with_bars([record(catalog=catalog, product="Bread")])
    assert barred == {"Milk | 1L"}
    with pytest.raises(ValueError, match="on its own line"):
        records.as_row("x", record(catalog="Milk | 1L | Bread", product="Bread"), LANGUAGES, barred)
