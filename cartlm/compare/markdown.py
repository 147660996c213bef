"""Text from a fork in Markdown that a stranger's page renders: it must not break a table, run HTML or call people.

GitHub and GitLab link @names, #numbers and the like in the rendered text, so that a character reference is no help
there: a zero-width space after the sign is, and so is <code>.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

LONGEST = 60  # characters of a value in a table
UNSAFE = re.compile(
    r"[<>|`*~$]|\\(?=[^\w\s])|&(?=[#\w])|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])|(?<![A-Za-z0-9])@|#|!(?=[\w\[])|%(?=\w)"
    r"|\[(?=\[)|\](?=[(\[:])|:(?=//)|(?<=www)\.|(?<=\bGH)-(?=\d)",
    re.IGNORECASE,
)
"""What is markup, HTML, or a reference to people, issues and pages. `_` and `@` within a word are none of these."""
REFERENCES = "@#!%~$&-"
CHART_NAME = re.compile(r"[^A-Za-z0-9._-]")
CHART_MOST = 24  # variants that a chart has room for
CHART_TOP = 1e9


def inert(text: str) -> str:
    """A sentence as inert Markdown on one line."""
    return UNSAFE.sub(_escape, escape_invisible(text))


def table_cell(value: Any, longest: int = LONGEST) -> str:
    """A value in a table, cut to `longest` characters; what would be markup is put in <code>. None is an empty cell."""
    text = "" if value is None else escape_invisible(str(value))
    text = text if len(text) <= longest else f"{text[: longest - 3]}..."
    safe = inert(text)
    return safe if safe == text else f"<code>{safe}</code>"


def escape_invisible(text: str) -> str:
    """Line ends, control and direction characters as escapes: each can move what follows it."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text).strip()


def _escape(match: re.Match[str]) -> str:
    sign = match.group()
    return f"&#{ord(sign)};" + ("&#8203;" if sign in REFERENCES else "")


def fold(summary: str, head: Sequence[str], rows: Sequence[str], most: int) -> str:
    """A table, or a list without `head`, that a click unfolds, with its first rows."""
    count = f"{len(rows):,}" if len(rows) <= most else f"the first {most:,} of {len(rows):,}"
    top = f"<details><summary>{inert(summary)} ({count})</summary>"
    return "\n".join([top, "", *head, *rows[:most], "", "</details>"])


def mermaid_chart(
    title: str, what: str, values: Sequence[tuple[str, float, float]], top: float | None = None
) -> str:
    """A mermaid chart of name, old and new: bars are new, the line is old; from 0 to `top`.

    Empty for fewer than two names, as a line of one point shows nothing, and without a value above 0.
    """
    shown = [each for each in values if all(0 <= value < CHART_TOP for value in each[1:])][:CHART_MOST]
    highest = max((max(each[1:]) for each in shown), default=0.0)
    if len(shown) < 2 or highest <= 0:
        return ""
    names = ", ".join(f'"{CHART_NAME.sub("_", name)}"' for name, _, _ in shown)
    lines = [
        "```mermaid",
        "xychart-beta",
        f'    title "{CHART_NAME.sub(" ", title)}"',
        f"    x-axis [{names}]",
        f'    y-axis "{CHART_NAME.sub(" ", what)}" 0 --> {_number(top or 1.1 * highest)}',
        f"    bar [{', '.join(_number(new) for _, _, new in shown)}]",
        f"    line [{', '.join(_number(old) for _, old, _ in shown)}]",
        "```",
    ]
    return "\n".join(lines)


def _number(value: float) -> str:
    """As mermaid reads it: without an exponent."""
    return f"{value:.0f}" if value >= 1000 else f"{value:.4f}".rstrip("0").rstrip(".")
