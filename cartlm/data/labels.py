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
from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from decimal import Decimal
from numbers import Real
from typing import Any

from cartlm.data.filters import bad_sign
from cartlm.data.tables import OURS, PUBLISHED
from cartlm.task import prompt as prompts
from cartlm.task.intent import ACTIONS, Intent
from cartlm.task.intent import read as read_intent
from cartlm.task.rows import Row, make

LEAK = ('"action"', '"quantity"')
MOST = 999_999  # of one product: more is a bar code in the wrong column
BAR = " | "
_NUMBER = re.compile(r"(\d+)(?:[.,]0{1,2})?")  # "2", "2.0", "2,00"; three zeros may be a thousand


def as_row(id: str, record: dict[str, Any], languages: Sequence[str], barred: Collection[str] = ()) -> Row:
    """A row of the contract, without tags. `barred`: as `bars` found them. Raises ValueError saying what is broken."""
    published = is_published(record)
    columns = PUBLISHED if published else OURS
    if missing := [name for name in columns if record.get(name) is None or record[name] == ""]:
        raise ValueError(
            f"nothing in {', '.join(missing)}; the row has {', '.join(map(str, record)) or 'nothing'}"
        )
    if published:
        catalog, message = prompts.split(_text(record, "prompt"))
        intent = read_intent(_text(record, "completion"))
        if record["completion"] != intent.canonical():
            raise ValueError(
                f"completion {record['completion']!r:.80} is not written as {intent.canonical()!r:.80}"
            )
    else:
        catalog, message = _catalog(record["catalog"], record["product"], barred), _text(record, "message")
        intent = Intent(_action(record["action"]), _text(record, "product"), _quantity(record["quantity"]))
    language = _text(record, "language")
    if language not in languages:
        raise ValueError(f"language is {language!r:.60}, not one of data.languages: {', '.join(languages)}")
    check_texts(catalog, message, intent)
    return make(id, language, catalog, message, replace(intent, product=line_of(intent.product, catalog)), {})


def is_published(record: dict[str, Any]) -> bool:
    """Whether a record has the columns of the published dataset."""
    return "prompt" in record and "message" not in record


def bars(records: Iterable[Any]) -> set[str]:
    """The products that hold " | ", in any record or catalog of several lines: a catalog of one line may not be cut there."""
    held: set[str] = set()
    for record in records:
        if not isinstance(record, dict):
            continue
        catalog = record.get("catalog")
        lines = (
            _lines(catalog)
            if isinstance(catalog, str)
            else catalog
            if isinstance(catalog, list | tuple)
            else []
        )
        several = lines if len(lines) > 1 or not isinstance(catalog, str) else []
        held.update(
            text
            for text in (record.get("product"), *several)
            if isinstance(text, str) and BAR in text.strip()
        )
    return held


def _lines(text: str) -> list[Any]:
    """The lines of a catalog that is a text: of a list written as one, or one under the other."""
    text = text.strip("\r\n")
    try:
        given = _literal(text)
    except ValueError:  # told where the row is read
        given = []
    return list(given) if given is not None else re.split(r"\r\n|\n|\r", text)


def plain(text: str) -> str:
    """What two texts must share to be the same one: NFC, any blank as one space, none around."""
    return " ".join(unicodedata.normalize("NFC", text).split())


def line_of(product: str, catalog: Sequence[str]) -> str:
    """The catalog's own bytes for a product, compared in NFC and whatever its blanks. Raises ValueError for none."""
    if product in catalog:
        return product
    if same := [line for line in catalog if plain(line) == plain(product)]:
        return same[0]
    told = f"product {product!r:.200} is not a catalog line"
    if near := difflib.get_close_matches(product, catalog, 1):
        told += f"; the nearest is {near[0]!r:.200}{_signs(product, near[0])}"
    elif len(catalog) == 1 and plain(product) in plain(catalog[0]):
        told += "; the catalog is one line: its products stand one under the other, or apart by ' | '"
    raise ValueError(told)


def _signs(one: str, other: str) -> str:
    """The code points in which two texts differ, where some are not ASCII: such texts may look the same."""
    pairs = []
    for kind, a, b, c, d in difflib.SequenceMatcher(None, one, other, autojunk=False).get_opcodes():
        if kind != "equal" and not (one[a:b] + other[c:d]).isascii():
            mine, theirs = (
                " ".join(f"U+{ord(sign):04X}" for sign in part) for part in (one[a:b], other[c:d])
            )
            pairs.append(f"{mine or 'nothing'} where that has {theirs or 'nothing'}")
    return f": the product has {', '.join(pairs[:3])}" if pairs else ""


def check_texts(catalog: Sequence[str], message: str, intent: Intent) -> None:
    """Raise ValueError for what would not come back out of a prompt, or could not be learned."""
    for line in catalog:
        if not line.strip() or line != line.strip() or "\n" in line or "\r" in line:
            raise ValueError(
                f"catalog line {line!r:.60} is empty, or has blanks around it or a line break within"
            )
    check_catalog(catalog)
    check_signs(catalog, message)
    line_of(intent.product, catalog)
    if intent.quantity > MOST:
        raise ValueError(f"quantity is {intent.quantity!r:.60}, more than {MOST}")
    if not message.strip():
        raise ValueError("the message is blank")
    if all(word in message for word in LEAK) or intent.canonical() in message:
        raise ValueError("the message holds the answer's JSON")


def check_catalog(catalog: Sequence[str]) -> None:
    """Raise ValueError where two lines are the same, byte for byte or to the eye."""
    seen: dict[str, str] = {}
    for line in catalog:
        if (other := seen.setdefault(plain(line), line)) != line:
            raise ValueError(f"catalog line {line!r:.60} occurs twice{_signs(line, other)}")
    if len(seen) < len(catalog):
        twice = next(line for line in catalog if catalog.count(line) > 1)
        raise ValueError(f"catalog line {twice!r:.60} occurs twice")


def check_signs(catalog: Sequence[str], message: str) -> None:
    """Raise ValueError for a sign that no text has, such as a control sign or half of a surrogate pair."""
    for text in (message, *catalog):
        if sign := bad_sign(text.replace("\n", " ").replace("\t", " ")):
            why = (
                ": it was decoded wrongly before it came here"
                if sign == "\ufffd"
                else ", which no message has"
            )
            raise ValueError(f"{text!r:.60} holds U+{ord(sign):04X}{why}")


def _text(record: dict[str, Any], name: str) -> str:
    """A column's text, its line ends as \\n. Raises ValueError for what is none."""
    value = record[name]
    if not isinstance(value, str):
        raise ValueError(f"{name} is {value!r:.60}, not text")
    return value.replace("\r\n", "\n").replace("\r", "\n")


def _catalog(value: Any, product: Any, barred: Collection[str]) -> list[str]:
    """The lines of a catalog: a list, a list written as text, lines one under the other, or one line with " | "."""
    given = value
    if isinstance(value, str):
        text = value.strip("\r\n")
        given = _literal(text)
        if given is None:
            given = re.split(r"\r\n|\n|\r", text)
            if len(given) == 1 and BAR in text:
                given = _parts(text, product, barred)
    if not isinstance(given, list | tuple) or not all(isinstance(line, str) for line in given):
        raise ValueError(f"catalog is {value!r:.60}, not a list of lines")
    return list(given)


def _literal(text: str) -> Any:
    """What a list written as JSON or Python holds; None for other text."""
    if not (text.strip()[:1] in ("[", "(") and text.strip()[-1:] in ("]", ")")):
        return None
    _no_missing_comma(text.strip())
    for read in (json.loads, ast.literal_eval):
        try:
            with warnings.catch_warnings(action="ignore"):
                found = read(text.strip())
        except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
            continue
        return found if isinstance(found, list | tuple) else None
    return None


def _no_missing_comma(text: str) -> None:
    """Raise ValueError for two texts in a row, which Python would join: ['Milk' 'Bread']."""
    last = 0
    try:
        for token in tokenize.generate_tokens(io.StringIO(text).readline):
            if token.type == last == tokenize.STRING:
                raise ValueError(f"catalog {text!r:.60} lacks a comma before {token.string:.60}")
            last = last if token.type == tokenize.NL else token.type
    except (tokenize.TokenError, SyntaxError):
        return  # no Python at all


def _parts(text: str, product: Any, barred: Collection[str]) -> list[str]:
    """The products of one line: the label says whether it is one or several. Raises ValueError where it does not."""
    parts = text.split(BAR)
    named = plain(product) if isinstance(product, str) else ""
    if named == plain(text):
        return [text]
    if any(plain(one) in plain(text) for one in barred):
        raise ValueError(
            "a product holds ' | ', so the catalog's lines have to stand one under the other, or in a list"
        )
    return parts


def _action(value: Any) -> str:
    if value not in ACTIONS:
        raise ValueError(f"action is {value!r:.60}, not {' or '.join(ACTIONS)}")
    return str(value)


def _quantity(value: Any) -> int:
    """A whole number from 1, also written 2.0 or as text, in the decimal digits of any script. Raises ValueError."""
    found: Any = value
    if isinstance(value, str):
        match = _NUMBER.fullmatch(value.strip())
        found = int(match[1]) if match and len(match[1]) <= 9 else None
    if isinstance(value, Decimal):  # a parquet column; as a Decimal NaN compares with nothing
        found = float(value) if value.is_finite() else None
    sound = isinstance(found, Real) and not isinstance(found, bool)  # NumPy's numbers too
    number: Any = found if sound else 0
    if not (1 <= number <= MOST and float(number).is_integer()):
        raise ValueError(f"quantity is {value!r:.60}, not a whole number from 1 to {MOST}")
    return int(number)
