"""Names of columns and words of actions: what is matched, and what a user is told of a wrong one."""

from __future__ import annotations

from pathlib import Path

import pytest

from cartlm.errors import UserError
from cartlm.own_rows.columns import Mapped, parse, resolve
from cartlm.own_rows.tables import Found

FILE = Path("logs.csv")


def found(*columns: str) -> Found:
    return Found(list(columns), [], [])


def test_options_are_pairs_with_commas_between_them() -> None:
    given = ["message=Text, product=Artikel", '"quantity=Menge, Stück"', "action=a=b"]
    mapped = parse(given, ["add=Kaufen,add=dodaj", "remove=0"], ["Haus", "Haus"])
    assert mapped.columns == {
        "message": "Text", "product": "Artikel", "quantity": "Menge, Stück", "action": "a=b",
    }  # fmt: skip
    assert [mapped.action(word) for word in ("kaufen", " DODAJ ", 0, "Add")] == [
        "add",
        "add",
        "remove",
        "add",
    ]
    assert mapped.slices == ("Haus",)
    with pytest.raises(ValueError, match="'weg', not one of: add, remove, kaufen, dodaj, 0"):
        mapped.action("weg")


@pytest.mark.parametrize("wrong", ["Text", "text=message", "message=", "=Text", "message"])
def test_what_is_no_pair_is_named(wrong: str) -> None:
    with pytest.raises(UserError, match="is not NAME=YOURS, with a NAME of message, catalog") as error:
        parse([wrong], [], [])
    assert repr(wrong) in error.value.message


def test_one_name_has_one_column() -> None:
    with pytest.raises(UserError, match="message twice: 'a' and 'b'"):
        parse(["message=a,message=b"], [], [])


def test_columns_match_whatever_their_case_and_form() -> None:
    mapped = Mapped({"message": "nachricht"}, slices=("Filiale Süd",))
    columns = found(" Nachricht ", "CATALOG", "Action", "product", "Quantity", "filiale  Su\u0308d")
    fields = resolve(columns, mapped, FILE, has_catalog=False)
    assert fields == {
        "message": " Nachricht ", "catalog": "CATALOG", "action": "Action", "product": "product",
        "quantity": "Quantity", "slice Filiale Süd": "filiale  Su\u0308d",
    }  # fmt: skip


def test_a_wrong_column_is_one_line_with_the_columns_there_are() -> None:
    with pytest.raises(UserError, match="has no column 'Txt', 'Haus'; its columns: Text, Artikel"):
        resolve(found("Text", "Artikel"), Mapped({"message": "Txt"}, slices=("Haus",)), FILE, True)
    with pytest.raises(
        UserError, match="no column for message, action, product, quantity; its columns: Text"
    ) as error:
        resolve(found("Text"), Mapped(), FILE, has_catalog=True)
    assert error.value.hint == "--columns message=...,action=...,product=...,quantity=..."
    with pytest.raises(UserError, match="no column for catalog"):
        resolve(found("message", "action", "product", "quantity"), Mapped(), FILE, has_catalog=False)


def test_a_column_is_only_what_it_is_named_for() -> None:
    """A column `product` that holds the message is not the product too."""
    columns = found("product", "item", "action", "quantity")
    fields = resolve(columns, Mapped({"message": "product", "product": "item"}), FILE, True)
    assert (fields["message"], fields["product"]) == ("product", "item")
    with pytest.raises(UserError, match="no column for product"):
        resolve(columns, Mapped({"message": "product"}), FILE, True)


@pytest.mark.parametrize("columns", [("prompt", "completion"), ("message", "catalog", "completion")])
def test_the_published_layout_and_ours_need_no_label_columns(columns: tuple[str, ...]) -> None:
    assert resolve(found(*columns), Mapped(), FILE, False).keys() == {*columns}
