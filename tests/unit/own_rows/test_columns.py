"""Names of columns and words of actions: what is matched, and what a user is told of a wrong one."""

from __future__ import annotations

from pathlib import Path

import pytest

from cartlm.data.tables import Source, folded
from cartlm.errors import UserError
from cartlm.own_rows.columns import Mapped, parse, resolve

FILE = Path("logs.csv")


def found(*columns: str) -> Source:
    return Source(FILE, columns={folded(name): name for name in columns})


def test_an_action_has_words_of_its_own_and_ours_in_any_case() -> None:
    mapped = parse(["message=Text"], ["add=Kaufen,add=dodaj", "remove=0"], ["Haus", "Haus"])
    assert mapped.columns == {"message": "Text"}
    assert [mapped.action(word) for word in ("kaufen", " DODAJ ", 0, "Add")] == [
        "add",
        "add",
        "remove",
        "add",
    ]
    assert mapped.slices == ("Haus",)
    with pytest.raises(ValueError, match="'weg', not one of: add, remove, kaufen, dodaj, 0"):
        mapped.action("weg")
    with pytest.raises(UserError, match="--actions 'buy' is not NAME=YOURS, with a NAME of add, remove"):
        parse([], ["buy"], [])


def test_columns_match_whatever_their_case_and_form() -> None:
    mapped = Mapped({"message": "nachricht"}, slices=("Filiale Süd",))
    columns = found(" Nachricht ", "CATALOG", "Action", "product", "Quantity", "filiale  Su\u0308d")
    fields = resolve(columns, mapped, has_catalog=False)
    assert fields == {
        "message": " Nachricht ", "catalog": "CATALOG", "action": "Action", "product": "product",
        "quantity": "Quantity", "slice Filiale Süd": "filiale  Su\u0308d",
    }  # fmt: skip


def test_a_wrong_column_is_one_line_with_the_columns_there_are() -> None:
    with pytest.raises(UserError, match="has no column 'Txt', 'Haus'; it has: Text, Artikel"):
        resolve(found("Text", "Artikel"), Mapped({"message": "Txt"}, slices=("Haus",)), True)
    with pytest.raises(
        UserError, match="no column 'message', 'action', 'product', 'quantity'; it has: Text"
    ) as error:
        resolve(found("Text"), Mapped(), has_catalog=True)
    assert error.value.hint == "add --columns message=NAME,action=NAME,product=NAME,quantity=NAME"
    with pytest.raises(UserError, match="no column 'catalog'"):
        resolve(found("message", "action", "product", "quantity"), Mapped(), has_catalog=False)


def test_a_column_is_only_what_it_is_named_for() -> None:
    """A column `product` that holds the message is not the product too."""
    columns = found("product", "item", "action", "quantity")
    fields = resolve(columns, Mapped({"message": "product", "product": "item"}), True)
    assert (fields["message"], fields["product"]) == ("product", "item")
    with pytest.raises(UserError, match="no column 'product'"):
        resolve(columns, Mapped({"message": "product"}), True)


@pytest.mark.parametrize("columns", [("prompt", "completion"), ("message", "catalog", "completion")])
def test_the_published_layout_and_ours_need_no_label_columns(columns: tuple[str, ...]) -> None:
    assert resolve(found(*columns), Mapped(), False).keys() == {*columns}
