"""One record of the user's own file as a row: catalog, label and texts, each read as people write them, and checked."""

from __future__ import annotations

import ast
import difflib
import io
import json
import re
import tokenize
import unicodedata
import warnings
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from decimal import Decimal
from numbers import Real
from typing import Any

from cartlm.data.filters import bad_sign
from cartlm.data.tables import OURS, PUBLISHED
from cartlm.task import prompt as prompts
from cartlm.task.intent import ACTIONS, NO_ORDER, NONE, Intent, parse_intent
from cartlm.task.rows import Row, make

LABELLED = ("product", "quantity")
"""Columns that only an order has."""
LEAK = ('"action"', '"quantity"')
MAX_QUANTITY = 999_999  # more is a bar code in the wrong column
BAR = " | "
_NUMBER = re.compile(r"(\d+)(?:[.,]0{1,2})?")  # "2", "2.0", "2,00"; three zeros may be a thousand
_LINE_END = re.compile(r"\r\n|\n|\r")


def as_row(
    id: str,
    record: dict[str, Any],
    languages: Sequence[str],
    barred: Collection[str] = (),
    none: bool = False,
) -> Row:
    """A row without tags; `barred` comes from `products_with_bars`. `none`: its action may be "none", without product and
    quantity. Raises ValueError naming what is wrong.
    """
    is_order = not none or record.get("action") != NONE
    published = "prompt" in record and "message" not in record
    columns = PUBLISHED if published else [name for name in OURS if is_order or name not in LABELLED]
    if missing := [name for name in columns if record.get(name) is None or record[name] == ""]:
        columns_given = ", ".join(map(str, record)) or "nothing"
        raise ValueError(f"nothing in {', '.join(missing)}; the row has {columns_given}")
    if published:
        catalog, message = prompts.split_prompt(_text(record, "prompt"))
        intent = parse_intent(_text(record, "completion"))
        if intent == NO_ORDER:
            raise ValueError(f"action is {intent.action!r}, not {' or '.join(ACTIONS)}")
        if (completion := record["completion"]) != intent.canonical():
            raise ValueError(f"completion {completion!r:.80} is not written as {intent.canonical()!r:.80}")
    else:
        catalog, message = _catalog(record["catalog"], record["product"], barred), _text(record, "message")
        if is_order and record["action"] not in ACTIONS:
            raise ValueError(f"action is {record['action']!r:.60}, not {' or '.join(ACTIONS)}")
        intent = Intent(record["action"], _text(record, "product"), record["quantity"])
    language = _text(record, "language")
    check_language(language, languages)
    for line in catalog:
        if not line or line != line.strip() or _LINE_END.search(line):
            what = "is empty, or has blanks around it or a line break within"
            raise ValueError(f"catalog line {line!r:.60} {what}")
    check_texts(catalog, message)
    if is_order:
        product, quantity = catalog_line(intent.product, catalog), _quantity(intent.quantity)
        intent = replace(intent, product=product, quantity=quantity)
    elif intent.product.strip() or str(intent.quantity).strip() not in ("", "0", "0.0"):
        what = f"product {intent.product!r:.60} and quantity {intent.quantity!r:.60}"
        raise ValueError(f"{NONE} with {what}: leave both empty")
    else:
        intent = NO_ORDER
    if not message.strip():
        raise ValueError("the message is blank")
    if all(key in message for key in LEAK) or intent.canonical() in message:
        raise ValueError("the message holds the answer's JSON")
    return make(id, language, catalog, message, intent, {})


def check_language(language: str, languages: Sequence[str]) -> None:
    """Raise ValueError for a language that is not configured."""
    if language not in languages:
        raise ValueError(f"language is {language!r:.60}, not one of data.languages: {', '.join(languages)}")


def plain(text: str) -> str:
    """A text as it is compared: NFC, any blank as one space, none around."""
    return " ".join(unicodedata.normalize("NFC", text).split())


def catalog_line(product: str, catalog: Sequence[str]) -> str:
    """The catalog's own bytes for a product, whatever its Unicode form and blanks. Raises ValueError for none."""
    if product in catalog:
        return product
    if same := [line for line in catalog if plain(line) == plain(product)]:
        return same[0]
    problem = f"product {product!r:.200} is not a catalog line"
    if near := difflib.get_close_matches(product, catalog, 1):
        problem += f"; the nearest is {near[0]!r:.200}{_code_points(product, near[0])}"
    elif len(catalog) == 1 and plain(product) in plain(catalog[0]):
        problem += "; the catalog is one line: put each product on its own line, or separate them by ' | '"
    raise ValueError(problem)


def _code_points(product: str, line: str) -> str:
    """The code points in which two texts differ, where some are not ASCII: such texts may look the same."""

    def code_points(part: str) -> str:
        return " ".join(f"U+{ord(sign):04X}" for sign in part) or "nothing"

    edits = difflib.SequenceMatcher(None, product, line, autojunk=False).get_opcodes()
    pairs = [
        f"{code_points(product[a:b])} where that has {code_points(line[c:d])}"
        for kind, a, b, c, d in edits
        if kind != "equal" and not (product[a:b] + line[c:d]).isascii()
    ]
    return f": the product has {', '.join(pairs[:3])}" if pairs else ""


def check_texts(catalog: Sequence[str], message: str = "") -> None:
    """Raise ValueError where two lines are the same or look the same, and for a character that no text has."""
    seen: dict[str, str] = {}
    for line in catalog:
        if plain(line) in seen:
            raise ValueError(f"catalog line {line!r:.60} occurs twice{_code_points(line, seen[plain(line)])}")
        seen[plain(line)] = line
    for text in (message, *catalog):
        if sign := bad_sign(text):
            why = ": it was decoded wrongly before" if sign == "\ufffd" else ", which no message has"
            raise ValueError(f"{text!r:.60} holds U+{ord(sign):04X}{why}")


def _text(record: dict[str, Any], name: str) -> str:
    """A column's text, its line ends as \\n. Raises ValueError for another type."""
    value = record[name]
    if not isinstance(value, str):
        raise ValueError(f"{name} is {value!r:.60}, not text")
    return _LINE_END.sub("\n", value)


def products_with_bars(records: Iterable[Mapping[str, Any]]) -> set[str]:
    """Products that hold " | ", in any label or catalog of several lines: no line may be split there."""
    found: set[str] = set()
    for record in records:
        texts, catalog = [record.get("product")], record.get("catalog")
        with suppress(ValueError):  # raised again where the row is read
            lines = _lines(catalog)
            texts += lines if len(lines) > 1 or not isinstance(catalog, str) else []
        found.update(text for text in texts if isinstance(text, str) and BAR in text.strip())
    return found


def _lines(catalog: Any) -> list[Any]:
    """The lines of a catalog: a list, a list written as text, or text with one product a line."""
    if isinstance(catalog, str):
        literal = _literal(catalog.strip())
        return _LINE_END.split(catalog.strip("\r\n")) if literal is None else literal
    return list(catalog) if isinstance(catalog, list | tuple) else [catalog]


def _literal(text: str) -> list[Any] | None:
    """The list that a text holds as JSON or Python; None for other text. Raises ValueError for a missing comma."""
    if text[:1] + text[-1:] not in ("[]", "()"):
        return None
    for parse in (json.loads, ast.literal_eval):
        try:
            with warnings.catch_warnings(action="ignore"):
                value = parse(text)
        except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
            continue
        texts = [value] if isinstance(value, str) else value  # Python joins two strings: ('Milk' 'Bread')
        if not isinstance(texts, list | tuple):
            return None
        if parse is ast.literal_eval and all(isinstance(item, str) for item in texts):
            tokens = tokenize.generate_tokens(io.StringIO(text).readline)
            if sum(token.type == tokenize.STRING for token in tokens) > len(texts):
                raise ValueError(f"catalog {text!r:.60} lacks a comma between two products")
        return None if isinstance(value, str) else list(value)
    return None


def _catalog(value: Any, product: Any, barred: Collection[str]) -> list[str]:
    """The lines of a catalog; a single line is split at " | " if the label allows. Raises ValueError."""
    lines = _lines(value)
    if not all(isinstance(line, str) for line in lines):
        raise ValueError(f"catalog is {value!r:.60}, not a list of lines")
    one_line = isinstance(value, str) and lines == [value.strip("\r\n")]
    if one_line and BAR in lines[0] and plain(str(product)) != plain(lines[0]):
        if any(plain(name) in plain(lines[0]) for name in barred):
            way_out = "put each product of the catalog on its own line, or write a list"
            raise ValueError(f"a product holds ' | ': {way_out}")
        return lines[0].split(BAR)
    return lines


def _quantity(value: Any) -> int:
    """A whole number from 1, also as 2.0 or text, in decimal digits of any script. Raises ValueError."""
    number, numeric = 0, isinstance(value, Real | Decimal)  # NumPy's numbers are Real
    if isinstance(value, str):
        match = _NUMBER.fullmatch(value.strip())
        number = int(match[1]) if match and len(match[1]) <= 9 else 0
    elif numeric and not isinstance(value, bool):
        with suppress(ValueError, OverflowError):  # NaN, infinity
            number = int(value) if int(value) == value else 0
    if not 1 <= number <= MAX_QUANTITY:
        raise ValueError(f"quantity is {value!r:.60}, not a whole number from 1 to {MAX_QUANTITY}")
    return number
