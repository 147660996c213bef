"""Words for people."""

from __future__ import annotations

from collections.abc import Sequence

LANGUAGE_CODES = {"english": "en", "croatian": "hr", "spanish": "es"}
"""Our name of a language -> ISO 639-1, for model cards and HTML."""


def counted(n: int, noun: str) -> str:
    """A number and its noun: `1 row`, `2,000 rows`."""
    return f"{n:,} {noun}{'' if n == 1 else 's'}"


def few(names: Sequence[str], most: int) -> str:
    """The first of them, and how many more."""
    left = len(names) - most
    return ", ".join(names[:most]) + (f" and {left} more" if left > 0 else "")


def help_to_read(texts: Sequence[str], total: int, otherwise: str) -> str:
    """A line that shows one of the unreadable answers `texts` and names what helps; empty up to half of `total`."""
    if 2 * len(texts) <= total:
        return ""
    shown = " ".join(texts[0].split())
    if "<think" in shown or "</think" in shown:
        otherwise = "turn the model's reasoning off, or start the server with its reasoning parser"
    return (
        f"{len(texts)} of {total} answers are no JSON of the right form, such as {shown[:160]!r}; {otherwise}"
    )
