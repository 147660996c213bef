"""The fitted reader on messages of each language: numbers, diacritics, twins, corrections, and words it never saw."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cartlm.baseline import reader
from cartlm.baseline.reader import Weights
from cartlm.errors import UserError
from cartlm.task.intent import Intent
from tests.fixtures.baseline import WEIGHTS, generated

DRIVES = [
    "Jeans",
    "Flash Drive (64GB)",
    "Flash Drive (32GB)",
    "Hand Soap (500ml)",
    "Hand Soap (1L)",
    "Green Tea",
]
KUPOVINA = [
    "Bijelo vino (750ml)",
    "Tamna čokolada (100g)",
    "Đumbir",
    "Šampon za kosu (400ml)",
    "Voćni jogurt (180g)",
]
COMPRA = [
    "Jabón líquido (500ml)",
    "Jabón líquido (1L)",
    "Azúcar moreno (1kg)",
    "Camiseta técnica (L)",
    "Champú en seco",
]


@pytest.mark.parametrize(
    ("catalog", "message", "wanted"),
    [
        # English
        (DRIVES, "add 2 green teas please", Intent("add", "Green Tea", 2)),
        (DRIVES, "remove the jeans from my cart", Intent("remove", "Jeans", 1)),
        (DRIVES, "I need three of the 32GB ones", Intent("add", "Flash Drive (32GB)", 3)),
        (DRIVES, "please delete half a dozen hand soaps, 1L", Intent("remove", "Hand Soap (1L)", 6)),
        (DRIVES, "Flash Drive (64GB) x4", Intent("add", "Flash Drive (64GB)", 4)),
        # Croatian, without diacritics, inflected
        (KUPOVINA, "molim dodaj dvije boce bijelog vina", Intent("add", "Bijelo vino (750ml)", 2)),
        (KUPOVINA, "makni tamnu cokoladu iz kosarice", Intent("remove", "Tamna čokolada (100g)", 1)),
        (KUPOVINA, "dodaj 3 sampona za kosu u košaricu", Intent("add", "Šampon za kosu (400ml)", 3)),
        (KUPOVINA, "izbaci đumbir", Intent("remove", "Đumbir", 1)),
        # Spanish
        (COMPRA, "quiero cuatro paquetes de azucar moreno", Intent("add", "Azúcar moreno (1kg)", 4)),
        (COMPRA, "quita el champu en seco de mi pedido", Intent("remove", "Champú en seco", 1)),
        (COMPRA, "añade 2 jabones líquidos de 500ml", Intent("add", "Jabón líquido (500ml)", 2)),
    ],
)  # fmt: skip
def test_messages_of_each_language(
    weights: Weights, catalog: list[str], message: str, wanted: Intent
) -> None:
    assert reader.read(weights, catalog, message) == wanted


def test_of_two_products_the_corrected_one_counts(weights: Weights) -> None:
    message = "add 2 green teas, no wait, I meant 3 hand soaps 500ml"
    assert reader.read(weights, DRIVES, message) == Intent("add", "Hand Soap (500ml)", 3)


def test_most_corrections_are_understood(weights: Weights) -> None:
    rows = [row for row in generated("unseen", 900) if row.tags["correction"] != "none"]
    right = sum(reader.read(weights, row.catalog, row.message) == row.intent for row in rows)
    assert len(rows) > 80
    assert right > 0.5 * len(rows)


@pytest.mark.parametrize(
    ("message", "product", "quantity"),
    [
        ("veg out pizza", "Veg Out Pizza", 1),
        ("2 veg pizzas", "Veg Pizza", 2),
        ("meat eater 3", "Meat Eater Pizza", 3),
        ("gimme one sacusage mcmuffin", "Sausage McMuffin", 1),
        ("two sausage mcmuffin with egg", "Sausage McMuffin with Egg", 2),
    ],
)
def test_a_message_without_words_it_knows_adds_one(
    weights: Weights, message: str, product: str, quantity: int
) -> None:
    menu = ["Veg Pizza", "Veg Out Pizza", "Meat Eater Pizza", "Sausage McMuffin", "Sausage McMuffin with Egg"]
    assert reader.read(weights, menu, message) == Intent("add", product, quantity)


@pytest.mark.parametrize("message", ["?", "...", "x", "0", "1234567", "½", "買う", "😀"])
@pytest.mark.parametrize("catalog", [["***"], ["Tea", "Jam (1)"], ["買う"]])
def test_any_message_gets_a_line_of_its_catalog(weights: Weights, catalog: list[str], message: str) -> None:
    found = reader.read(weights, catalog, message)
    assert found.product in catalog
    assert found.quantity >= 1
    assert found.action == "add"


def test_rows_it_has_not_seen_are_mostly_right(weights: Weights) -> None:
    rows = generated("unseen", 900)[:300]
    right = sum(reader.read(weights, row.catalog, row.message) == row.intent for row in rows)
    assert right > 0.75 * len(rows)
    for language in ("english", "croatian", "spanish"):
        part = [row for row in rows if row.language == language]
        assert sum(reader.read(weights, row.catalog, row.message) == row.intent for row in part) > 0.65 * len(
            part
        )


def test_a_file_holds_the_weights_and_always_the_same_bytes(tmp_path: Path, weights: Weights) -> None:
    for path in (tmp_path / "a/model.json", tmp_path / "b/model.json"):
        reader.write(path, weights)
    assert (tmp_path / "a/model.json").read_bytes() == (tmp_path / "b/model.json").read_bytes()
    assert reader.load(tmp_path / "a/model.json") == weights


@pytest.mark.parametrize(
    "spoil",
    [
        lambda text: text[: len(text) // 2],
        lambda text: "[]",
        lambda text: "{}",
        lambda text: text.replace('"format": 1', '"format": 2'),
        lambda text: text.replace('"threshold"', '"limit"'),
        lambda text: text.replace('"threshold": 1.0', '"threshold": null'),
        lambda text: json.dumps({**json.loads(text), "product": {"name": "much"}}),
        lambda text: json.dumps({**json.loads(text), "numbers": {"two": 2}}),
        lambda text: "\x00\xff",
    ],
)
def test_a_file_of_anything_else_is_one_line(tmp_path: Path, spoil: object) -> None:
    path = tmp_path / "model.json"
    reader.write(path, WEIGHTS)
    path.write_text(spoil(path.read_text("utf-8")), encoding="utf-8")  # type: ignore[operator]
    with pytest.raises(UserError, match="no baseline of this version") as caught:
        reader.load(path)
    assert str(path) in str(caught.value)
    assert str(caught.value).endswith("dvc repro -f -s baseline")
    assert "\n" not in str(caught.value)
