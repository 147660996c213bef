"""What is logged and counted of requests."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest

from cartlm.serving.http import logs
from tests.fixtures.http_service import CATALOG
from tests.unit.serving.http.conftest import Serve, ask, message

SECRET = "two fail teas for Ana Horvat"


@pytest.fixture
def log() -> Iterator[io.StringIO]:
    """What goes to the log, as text."""
    text = io.StringIO()
    handler = logging.StreamHandler(text)
    handler.setFormatter(logs.JsonLines())
    logs.LOGGER.addHandler(handler)
    logs.LOGGER.setLevel(logging.INFO)
    yield text
    logs.LOGGER.removeHandler(handler)


def lines(log: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in log.getvalue().splitlines()]


def test_each_request_is_a_line_without_what_was_said(serve: Serve, log: io.StringIO) -> None:
    app = serve().app
    said = ["tea for Ana Horvat", SECRET, "unclear Ana Horvat"]
    answers = [ask(app, "POST", "/v1/intents", json={"message": text, "catalog": CATALOG}) for text in said]
    ask(app, "PUT", "/v1/catalogs/Horvat", json={"lines": ["Ana Horvat"]})
    ask(app, "GET", "/v1/nothing?name=Horvat")
    ask(app, "POST", "/v1/intents", content=b'{"message": "Ana Horvat\x00')
    assert [each.status_code for each in answers] == [200, 500, 422]
    found = lines(log)
    assert "Horvat" not in log.getvalue()
    requests = [line for line in found if line["event"] == "request"]
    assert [line["status"] for line in requests] == [200, 500, 422, 201, 404, 422]
    assert requests[0]["request_id"] == answers[0].headers["x-request-id"]
    assert (requests[0]["variant"], requests[0]["messages"], requests[0]["route"]) == (
        "first",
        1,
        "/v1/intents",
    )
    assert requests[4]["route"] == "none"
    failures = [line for line in found if line["event"] == "failed"]
    assert [(line["error"], line["request_id"]) for line in failures] == [
        ("RuntimeError", answers[1].headers["x-request-id"])
    ]
    assert any("http_service.py" in place for place in failures[0]["at"])


def test_messages_are_logged_where_that_was_asked(serve: Serve, log: io.StringIO) -> None:
    app = serve(log_messages=True).app
    body = {"messages": ["one \N{GRINNING FACE} tea", "  "], "catalog": CATALOG}
    ask(app, "POST", "/v1/intents/batch", json=body)
    line = lines(log)[-1]
    assert line["texts"] == body["messages"]
    assert line["intents"] == [{"action": "add", "product": CATALOG[0], "quantity": 1}, None]


def test_metrics_count_requests_messages_and_tokens(serve: Serve) -> None:
    app = serve().app
    for text in ("tea", "unclear", "fail"):
        ask(app, "POST", "/v1/intents", json={"message": text, "catalog": CATALOG})
    for method, path in (("PURGE", "/v1/intents"), ("SPY", "/v1/models"), ("GET", "/a"), ("GET", "/b")):
        ask(app, method, path)
    text = ask(app, "GET", "/metrics").text
    for sample in (
        'cartlm_requests_total{method="POST",route="/v1/intents",status="200"} 1.0',
        'cartlm_requests_total{method="other",route="/v1/intents",status="405"} 1.0',
        'cartlm_requests_total{method="GET",route="none",status="404"} 2.0',
        'cartlm_messages_total{outcome="answered",variant="first"} 1.0',
        'cartlm_messages_total{outcome="unreadable",variant="first"} 1.0',
        'cartlm_messages_total{outcome="failed",variant="first"} 1.0',
        'cartlm_message_seconds_count{phase="queue",variant="first"} 3.0',
        'cartlm_tokens_total{kind="answer_decided",variant="first"} 9.0',
        'cartlm_queue_length{variant="second"} 0.0',
        'cartlm_queue_limit{variant="second"} 4.0',
    ):
        assert f"{sample}\n" in text, sample
    assert "SPY" not in text


def test_two_services_of_a_process_count_apart(serve: Serve) -> None:
    app = serve().app
    ask(app, "GET", "/v1/models")
    assert 'route="/v1/models"' not in ask(serve().app, "GET", "/metrics").text


def test_an_error_is_one_line_without_the_input(serve: Serve) -> None:
    app = serve().app
    for body in (
        {"message": "Horvat" * 400, "catalog": CATALOG},
        {"message": "tea", "catalog": ["Horvat\nHorvat"]},
        {"message": ["Horvat"], "catalog": CATALOG, "Hor\nvat": 1},
        {"message": "Horvat"},
        {"message": "\ud83d", "catalog": CATALOG},
    ):
        content = json.dumps(body).encode()
        refused = ask(
            app, "POST", "/v1/intents", content=content, headers={"content-type": "application/json"}
        )
        assert refused.status_code == 422, body
        assert message(refused)
