"""The option --columns, and which of a file's columns it means."""

from __future__ import annotations

from pathlib import Path

import pytest

from cartlm.data.tables import Source, folded
from cartlm.errors import UserError
from cartlm.serving.columns import match_columns, parse_columns, parse_pairs

KNOWN = ("message", "catalog", "quantity", "action")


def test_options_are_pairs_with_commas_between_them() -> None:
    given = ["message=Text, catalog=the menu,", '"quantity=Menge, Stück"', "action=a=b", ""]
    assert parse_columns(given, KNOWN) == {
        "message": "Text", "catalog": "the menu", "quantity": "Menge, Stück", "action": "a=b",
    }  # fmt: skip
    assert parse_columns([""], KNOWN) == {}
    assert parse_pairs(["add=Buy,add=dodaj"], "--actions", ["add"]) == [("add", "Buy"), ("add", "dodaj")]


@pytest.mark.parametrize("wrong", ["Text", "text=message", "message=", "=Text", "message"])
def test_what_is_no_pair_is_named(wrong: str) -> None:
    with pytest.raises(UserError, match="is not NAME=YOURS, with a NAME of message, catalog") as error:
        parse_columns([wrong], KNOWN)
    assert error.value.message.startswith(f"--columns {wrong!r} ")


def test_one_name_has_one_column() -> None:
    assert parse_columns(["message=a", "message=a"], KNOWN) == {"message": "a"}
    with pytest.raises(UserError, match="message twice: 'a' and 'b'"):
        parse_columns(["message=a,message=b"], KNOWN)


def surveyed(*names: str) -> Source:
    return Source(Path("logs.csv"), columns={folded(name): name for name in names})


def test_given_columns_go_first_and_ours_are_matched_in_any_case() -> None:
    source = surveyed("Text", "CATALOG", "message")
    assert match_columns(source, {"message": " text"}, KNOWN) == {"message": "Text", "catalog": "CATALOG"}
    with pytest.raises(UserError, match=r"logs\.csv has no column 'Txt'; it has: Text, CATALOG, message"):
        match_columns(source, {"message": "Txt", "catalog": "catalog"}, KNOWN)


def test_a_column_is_only_what_it_is_given_as() -> None:
    """A catalog that is given as the message is no catalog too; as a slice it is."""
    source = surveyed("catalog")
    assert match_columns(source, {"message": "catalog"}, KNOWN) == {"message": "catalog"}
    assert match_columns(source, {"slice x": "catalog"}, KNOWN).keys() == {"slice x", "catalog"}
