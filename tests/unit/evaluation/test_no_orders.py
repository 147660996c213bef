"""Recall, precision and cost of "no order", of each way of decoding."""

from __future__ import annotations

import pytest

from cartlm.engines.answer import Answer, Legal
from cartlm.evaluation import no_orders
from cartlm.evaluation.statistics import wilson
from cartlm.task.intent import NO_ORDER, Intent
from cartlm.task.rows import Row, make

ORDER = Intent("add", "Tea", 1)


def row(number: int, intent: Intent = ORDER, **tags: str | bool) -> Row:
    return make(str(number), "spanish" if number % 2 else "english", ["Tea"], f"{number}", intent, tags)


def answer(free: Intent, legal: Intent | None = None, gap: float = 9.0, finish: str = "stop") -> Answer:
    one = Legal(legal.canonical(), (1,), 0.9, ORDER.canonical(), 0.1, gap) if legal is not None else None
    return Answer(free.canonical(), (1,), finish, 1, 1, 0, 0.0, 0.0, one)


CHATS = [
    row(n, NO_ORDER, kind=kind, novel=n < 2) for n, kind in enumerate(("chat", "chat", "absent", "question"))
]
ORDERS = [row(n) for n in range(10)]
SETS = {"free": ORDERS, "natural": ORDERS[:5], no_orders.SET: CHATS}
ANSWERED = {
    "free": [answer(NO_ORDER, ORDER), answer(ORDER, NO_ORDER, 1.0), *[answer(ORDER, ORDER)] * 8],
    "natural": [answer(NO_ORDER, NO_ORDER), *[answer(ORDER, ORDER)] * 4],
    no_orders.SET: [
        answer(NO_ORDER, NO_ORDER), answer(NO_ORDER, NO_ORDER, 1.0), answer(ORDER, NO_ORDER),
        answer(NO_ORDER, ORDER, 0.0, "length"),
    ],
}  # fmt: skip
WAYS = {"constrained": {}, "ensemble": {}, "ensemble_calibration": {"margin": 2.0}}


def test_each_way_has_its_section() -> None:
    found = no_orders.sections(SETS, ANSWERED, WAYS)
    assert set(found) == {"none", "none_constrained", "none_ensemble"}
    free, within, both = found.values()
    low, high = wilson(2, 4)
    assert {key: free[key] for key in ("n", "recall", "recall_low", "recall_high")} == {
        "n": 4, "recall": 0.5, "recall_low": low, "recall_high": high,
    }  # fmt: skip
    assert {key: value for key, value in free.items() if key.startswith("recall_") and key[7:] not in ("low", "high")} == {
        "recall_chat": 1.0, "recall_absent": 0.0, "recall_question": 0.0, "recall_english": 0.5,
        "recall_spanish": 0.5, "recall_novel": 1.0, "recall_not_novel": 0.0,
    }  # fmt: skip
    assert (free["precision"], free["false_none"], free["orders"]) == (pytest.approx(2 / 3), 0.1, 10)
    assert (free["false_none_natural"], free["orders_natural"]) == (0.2, 5)
    assert (within["recall"], within["precision"], within["false_none"]) == (0.75, 0.75, 0.1)
    assert (both["recall"], both["precision"], both["false_none"]) == (0.5, 1.0, 0.0)  # proposals within 2


def test_what_was_not_asked_is_absent() -> None:
    assert no_orders.sections({"free": ORDERS, "none": []}, {"free": ANSWERED["free"]}, WAYS) == {}
    orders = [answer(ORDER)] * 4
    (found,) = no_orders.sections(SETS, {"free": orders, no_orders.SET: orders}, {}).values()
    assert found["recall"] == found["false_none"] == found["orders_natural"] == 0
    assert not {"precision", "precision_low", "false_none_natural"} & found.keys()
