"""The outcome of each answer, shares over all rows and over slices of them, and the parity of two engines."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from cartlm.engines.answer import Agreement, Answer, Compared
from cartlm.evaluation.statistics import wilson
from cartlm.task.intent import parse_intent
from cartlm.task.rows import Row

OutcomeName = Literal["exact", "parsed_equal", "wrong", "unparseable", "truncated"]
OUTCOMES: tuple[OutcomeName, ...] = get_args(OutcomeName)
"""Each row has exactly one: the completion byte for byte; other bytes that read as the same intent; another
intent; no intent at all; no EOS within the cap, whatever the text."""
FIELDS = ("action", "product", "quantity")
CATALOG_SIZES = ((5, 8), (9, 14), (15, 20))  # lines
VALUE_TAGS = ("phrasing", "lines", "spelling", "style", "quantity_form", "name_form", "switch", "correction")
FLAG_TAGS = ("novel", "twins")


@dataclass(frozen=True)
class Score:
    """A row's outcome, and which fields are right: none is where the answer does not parse or stop."""

    outcome: OutcomeName
    action: bool = False
    product: bool = False
    quantity: bool = False


def score(row: Row, answer: Answer) -> Score:
    """Compare one answer with its row's completion."""
    if answer.finish_reason != "stop":
        return Score("truncated")
    try:
        parsed = parse_intent(answer.text)
    except ValueError:
        return Score("unparseable")
    right = {field: getattr(parsed, field) == getattr(row.intent, field) for field in FIELDS}
    if answer.exact(row.completion):
        return Score("exact", **right)
    return Score("parsed_equal" if all(right.values()) else "wrong", **right)


def exact_share(rows: Sequence[Row], answers: Sequence[Answer]) -> dict[str, int | float]:
    """The share of answers that are their row's completion, with its Wilson 95 % interval. Raises ValueError without rows."""
    return _exact(
        sum(answer.exact(row.completion) for row, answer in zip(rows, answers, strict=True)), len(rows)
    )


def _exact(count: int, n: int) -> dict[str, int | float]:
    low, high = wilson(count, n)
    return {"n": n, "exact_match": count / n, "exact_match_low": low, "exact_match_high": high}


def summarize(scores: Sequence[Score]) -> dict[str, int | float]:
    """The metrics of one decoding; all but `n` are shares of all rows.

    `exact_match` with its Wilson 95 % interval; `parsed_equal` counts the exact rows too (the answer reads as
    the right intent), unlike the outcome of that name; `wrong`, `unparseable` and `truncated` as in
    OUTCOMES, so that parsed_equal + these three = 1; `action`, `product` and `quantity` are rows with that
    field right. Raises ValueError without scores.
    """
    n = len(scores)
    count = {name: sum(one.outcome == name for one in scores) for name in OUTCOMES}
    return {
        **_exact(count["exact"], n),
        "parsed_equal": (count["exact"] + count["parsed_equal"]) / n,
        **{name: count[name] / n for name in ("wrong", "unparseable", "truncated")},
        **{field: sum(getattr(one, field) for one in scores) / n for field in FIELDS},
    }


def slices(row: Row) -> list[str]:
    """The slices that a row belongs to; those of tags it lacks (published rows have none) are absent.

    `clean_full` holds the messages without noise that name the product by its whole catalog line.
    """
    tags = row.tags
    names = [f"language_{row.language}", f"action_{row.intent.action}"]
    names += [f"catalog_{low}_{high}" for low, high in CATALOG_SIZES if low <= len(row.catalog) <= high]
    if "noise" in tags:
        names.append("noise_clean" if tags["noise"] == "clean" else "noise_noisy")
    names += [f"{tag}_{tags[tag]}" for tag in VALUE_TAGS if tag in tags]
    names += [tag if tags[tag] else f"not_{tag}" for tag in FLAG_TAGS if tag in tags]
    if tags.get("noise") == "clean" and tags.get("name_form") == "full":
        names.append("clean_full")
    return names


def summarize_slices(rows: Sequence[Row], scores: Sequence[Score]) -> dict[str, int | float]:
    """Exact match of every slice, and its number of rows under the name with `_n`.

    A slice of all rows would repeat their exact match: it is absent, but for a language, which the tables ask for.
    """
    by_slice: dict[str, list[Score]] = defaultdict(list)
    for row, one in zip(rows, scores, strict=True):
        for name in slices(row):
            by_slice[name].append(one)
    section: dict[str, int | float] = {}
    for name, members in sorted(by_slice.items()):
        if len(members) == len(rows) and not name.startswith("language_"):
            continue
        section[name] = sum(one.outcome == "exact" for one in members) / len(members)
        section[f"{name}_n"] = len(members)
    return section


def parity_section(agreement: Agreement) -> dict[str, int | float]:
    """The values of metrics/parity.json: the share of rows answered alike, with its Wilson 95 % interval."""
    low, high = wilson(agreement.n - len(agreement.divergences), agreement.n)
    return {"agreement": agreement.share, "agreement_low": low, "agreement_high": high, "n": agreement.n}


def merge_sections(
    rows: Sequence[Row], compared: Mapping[Any, Compared]
) -> dict[str, dict[str, int | float]]:
    """The sections of metrics/merge.json by way of merging: exact match, and the share of rows answered as the adapter did.

    The section `adapter` has the exact match of the adapter itself.
    """
    sections = {"adapter": exact_share(rows, next(iter(compared.values())).adapter)}
    for way, one in compared.items():
        agreement = {"agreement": one.agreement.share}
        sections[f"onto_{way.replace('-', '_')}"] = exact_share(rows, one.merged) | agreement
    return sections
