"""Test rows that a variant answers wrongly, what it was meant to say, and where both differ."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from difflib import SequenceMatcher
from typing import Any

from markupsafe import Markup, escape

from cartlm.evaluation.paired import F16, UNQUANTIZED
from cartlm.report_page import test_rows
from cartlm.report_page.parts import Section, Sources, View, shown_path
from cartlm.text import LANGUAGE_CODES

SHOWN = 12  # rows a variant
FIELDS = ("action", "product", "quantity")


def section(sources: Sources) -> Section:
    """Examples by variant; without rows or answers, the command that brings them."""
    views, note = [], ""
    if not sources.show_rows:
        note = "Rows of a private source are shown only where asked: cartlm report --show-rows."
    elif not (rows := {str(row["id"]): row for row in test_rows.read(sources.root)}):
        note = f"This checkout has no data/test.jsonl that these numbers are of: {test_rows.MAKE}, and the answers to them."
    else:
        for name in sorted(sources.variants, key=lambda each: each in UNQUANTIZED and each != F16):
            answers = test_rows.answers(sources.root, sources.metrics, name)
            wrong = {
                row: text for row, text in answers.items() if row in rows and text != rows[row]["completion"]
            }
            if wrong:
                views.append(examples(sources, name, rows, wrong, len(answers)))
        if not views:
            note = f"This checkout has no answers with the hashes of metrics/outcomes: {test_rows.MAKE}."
    return Section(
        "failures",
        "Failed examples",
        "Rows answered wrongly by free decoding; what differs is marked.",
        f"Every n-th wrong row of data/test.jsonl, at most {SHOWN} a variant. An answer is shown if metrics/outcomes has its hash.",
        "make repro",
        views,
        note,
    )


def examples(
    sources: Sources, name: str, rows: Mapping[str, Mapping[str, Any]], wrong: Mapping[str, str], asked: int
) -> View:  # fmt: skip
    """Evenly spaced over the wrong rows."""
    ids = sorted(wrong)
    chosen = [ids[index * len(ids) // min(SHOWN, len(ids))] for index in range(min(SHOWN, len(ids)))]
    items = Markup("").join(example(rows[row], wrong[row]) for row in chosen)
    files = ["data/test.jsonl", f"{test_rows.ANSWERS}/{name}.jsonl", shown_path(sources.root, sources.metrics / "outcomes" / f"{name}.csv")]  # fmt: skip
    return View(
        {"variant": name},
        [],
        files,
        Markup('<ul class="examples">{}</ul>').format(items),
        note=f"{len(wrong):,} of {asked:,} answers are wrong; {len(chosen)} of them:",
    )


def example(row: Mapping[str, Any], answer: str) -> Markup:
    """Message, catalog, what was wanted and what was given."""
    wanted, given = read(row["completion"]), read(answer)
    if given is None or wanted is None:
        pair = Markup("<dt>wanted</dt><dd>{}</dd><dt>given</dt><dd><mark>{}</mark></dd>").format(
            row["completion"], answer
        )
    else:
        sides = [
            Markup(" ").join(marked(str(one.get(key, "–")), str(other.get(key, "–"))) for key in FIELDS)
            for one, other in ((wanted, given), (given, wanted))
        ]
        pair = Markup("<dt>wanted</dt><dd>{}</dd><dt>given</dt><dd>{}</dd>").format(*sides)
    catalog = Markup("").join(Markup("<li>{}</li>").format(each) for each in row["catalog"])
    return Markup(
        '<li><p class="message" lang="{}">{}</p><dl>{}</dl><details><summary>catalog, {}</summary><ul>{}</ul></details></li>'
    ).format(LANGUAGE_CODES.get(str(row["language"]), ""), row["message"], pair, row["id"], catalog)


def read(text: str) -> dict[str, Any] | None:
    """An answer as an intent; None for any other text."""
    try:
        values = json.loads(text)
    except ValueError:
        return None
    return values if isinstance(values, dict) else None


def marked(one: str, other: str) -> Markup:
    """The first text, with the words marked that the second does not have there."""
    first, second = one.split(" "), other.split(" ")
    words: Sequence[tuple[str, int, int, int, int]] = SequenceMatcher(
        None, first, second, autojunk=False
    ).get_opcodes()
    parts = []
    for kind, start, end, _, _ in words:
        if start < end:
            piece = escape(" ".join(first[start:end]))
            parts.append(piece if kind == "equal" else Markup("<mark>{}</mark>").format(piece))
    return Markup(" ").join(parts)
