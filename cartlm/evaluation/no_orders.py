"""Sections of a metrics file on messages that are no order: whether they are answered so, and what that costs on orders."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from cartlm.engines.answer import Answer
from cartlm.evaluation.answers import rows_hash
from cartlm.evaluation.constrained import constrained, ensemble
from cartlm.evaluation.statistics import wilson
from cartlm.task.intent import NO_ORDER, parse_intent
from cartlm.task.rows import Row

SET = "none"
"""The name of the rows that are no orders among the sets of an evaluation."""
ORDERS = ("free", "natural")
"""Sets of orders: the test rows, and what people typed."""


def is_none(answer: Answer) -> bool:
    """Whether an answer ended and says that the message is no order."""
    try:
        return answer.finish_reason == "stop" and parse_intent(answer.text) == NO_ORDER
    except ValueError:
        return False


def sections(
    sets: Mapping[str, Sequence[Row]], answered: Mapping[str, Sequence[Answer]], others: Mapping[str, Any]
) -> dict[str, dict[str, Any]]:
    """The sections `none`, and `none_constrained` and `none_ensemble` where `others` has these ways; empty without such rows.

    `recall` is the share of the `n` rows of SET answered "no order", also by kind, language and novelty; `false_none` the share
    of the `orders` test rows answered so, and `false_none_natural` of the `orders_natural` that people typed; `precision` the
    share of SET among all rows of SET and the test that are answered so, absent where no row is. With Wilson's 95 % intervals.
    """
    if not answered.get(SET):
        return {}
    ways: dict[str, Callable[[Answer], Answer]] = {"": lambda answer: answer}
    if "constrained" in others:
        ways["_constrained"] = constrained
    if "ensemble" in others:
        margin = others.get("ensemble_calibration", {}).get("margin", 0.0)
        ways["_ensemble"] = partial(ensemble, margin=margin)
    return {f"{SET}{way}": _section(sets, answered, choose) for way, choose in ways.items()}


def _section(
    sets: Mapping[str, Sequence[Row]], answered: Mapping[str, Sequence[Answer]], choose: Callable[[Answer], Answer]
) -> dict[str, Any]:  # fmt: skip
    said = {name: [is_none(choose(one)) for one in answered.get(name, ())] for name in (SET, *ORDERS)}
    found, false, typed = (sum(said[name]) for name in (SET, *ORDERS))
    return {
        "n": len(said[SET]),
        **_share("recall", found, len(said[SET])),
        **_parts(sets[SET], said[SET]),
        **_share("precision", found, found + false),
        "orders": len(said["free"]),
        **_share("false_none", false, len(said["free"])),
        "orders_natural": len(said["natural"]),
        **_share("false_none_natural", typed, len(said["natural"])),
        "rows": rows_hash(sets[SET]),
    }


def _share(name: str, count: int, n: int) -> dict[str, float]:
    """A share with its interval; nothing of no rows."""
    if not n:
        return {}
    low, high = wilson(count, n)
    return {name: count / n, f"{name}_low": low, f"{name}_high": high}


def _parts(rows: Sequence[Row], said: Sequence[bool]) -> dict[str, float]:
    """The recall of each kind, each language, and of held-out lines and the others."""
    parts: dict[str, list[bool]] = defaultdict(list)
    for row, one in zip(rows, said, strict=True):
        novelty = "novel" if row.tags.get("novel") else "not_novel"
        for name in (row.tags.get("kind", "other"), row.language, novelty):
            parts[f"recall_{name}"].append(one)
    return {name: sum(part) / len(part) for name, part in sorted(parts.items())}
