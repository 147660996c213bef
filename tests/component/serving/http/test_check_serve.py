"""The load check: a real service is measured beside its reader, and figures that break a promise are found."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cartlm.errors import UserError
from tests.benchmarks.check_serve import Options, broken, measure, service
from tests.fixtures.toy import toy_rows

GOOD: dict[str, Any] = {
    "statuses": {"200": 900, "429": 2000}, "wrong": 0, "accepted_ms_p99": 120.0, "full_queue_ms": 100.0,
    "served_per_s": 30.0, "answered_per_s": 28.0,
    "rss_mib_first": 200.0, "rss_mib_last": 201.0, "batch_rate_ratio": 0.95, "overhead_ms_p50": 2.0,
}  # fmt: skip


@pytest.mark.slow
def test_a_service_is_measured(toy_gguf: Path) -> None:
    """Most are refused; a fast machine sends more than the service has connections for, too. No figure is a promise here."""
    found = measure(Options(str(toy_gguf), 1, 1, queue=16), toy_rows()[:8], times=10, seconds=0.2, rounds=1)
    assert {"200", "429"} <= set(found["statuses"]) <= {"200", "429", "503"}
    assert sum(found["statuses"].values()) == found["asked"]
    assert found["wrong"] == 0
    assert found["rss_mib_last"] > 20
    missing = GOOD.keys() - found.keys()
    assert not missing


def test_each_broken_promise_is_found() -> None:
    assert broken(GOOD) == []
    for figures, word in (
        ({"statuses": {"200": 1, "429": 9, "503": 1}}, "429"),
        ({"statuses": {"200": 9}}, "429"),
        ({"statuses": {"200": 9, "429": 9, "ReadError": 1}}, "429"),
        ({"wrong": 1}, "answer"),
        ({"accepted_ms_p99": 251.0}, "queue"),
        ({"accepted_ms_p99": float("nan")}, "queue"),
        ({"answered_per_s": 14.0}, "collapse"),
        ({"rss_mib_last": 221.0}, "memory"),
        ({"batch_rate_ratio": 0.89}, "rate"),
        ({"overhead_ms_p50": 5.1}, "HTTP"),
    ):
        (promise,) = broken(GOOD | figures)
        assert word in promise


def test_a_service_that_does_not_start_is_one_line(tmp_path: Path) -> None:
    missing = str(tmp_path / "none.gguf")
    with (
        pytest.raises(UserError, match=r"does not start.*none\.gguf is missing"),
        service(Options(missing, 1, 1)),
    ):
        pass
