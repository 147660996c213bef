"""The service over a real connection: the reader's own answers, in each of its forms."""

from __future__ import annotations

import json
import socket
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import urlsplit

import openai
import pytest

from cartlm.engines.config import Remote
from cartlm.engines.connection import RequestFailed
from cartlm.engines.openai import Client
from cartlm.evaluation.remote import row_request
from cartlm.serving.http.limits import MAX_HEADERS
from cartlm.task.intent import parse_intent
from cartlm.task.rows import Row
from tests.component.serving.http.conftest import Server
from tests.fixtures.servers import no_surroundings
from tests.fixtures.toy import toy_rows

__all__ = ["no_surroundings"]
ROWS = toy_rows()[::3]


def expected(server: Server, row: Row) -> dict[str, Any]:
    found = server.reader.predict(row.catalog, row.message)
    intent = found.intent
    return {
        "intent": {"action": intent.action, "product": intent.product, "quantity": intent.quantity},
        "confidence": found.confidence,
        "variant": "toy",
    }


def body(row: Row, **more: Any) -> dict[str, Any]:
    return {"message": row.message, "catalog": row.catalog, **more}


def test_many_clients_get_the_readers_own_answers(server: Server) -> None:
    def ask(row: Row) -> dict[str, Any]:
        answer = server.client.post("/v1/intents", json=body(row))
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(ask, 2 * ROWS))
    assert all(each.pop("latency_ms") > 0 for each in found)
    assert found == 2 * [expected(server, row) for row in ROWS]


def test_a_batch_over_a_stored_catalog_is_each_message_alone(server: Server) -> None:
    row = ROWS[0]
    stored = server.client.put("/v1/catalogs/menu.1", json={"lines": row.catalog})
    assert (stored.status_code, stored.json()["count"]) == (201, len(row.catalog))
    assert server.client.put("/v1/catalogs/menu.1", json={"lines": row.catalog}).status_code == 200
    assert server.client.get("/v1/catalogs/menu.1").json()["lines"] == row.catalog
    assert "menu.1" in [each["id"] for each in server.client.get("/v1/catalogs").json()["catalogs"]]
    messages = [row.message, " ", row.message + " please"]
    batch = server.client.post("/v1/intents/batch", json={"messages": messages, "catalog_id": "menu.1"})
    answers = batch.json()["answers"]
    assert "blank" in answers[1]["error"]
    for answer, text in zip(answers[::2], messages[::2], strict=True):
        found = server.reader.predict(row.catalog, text)
        assert (answer["intent"]["product"], answer["confidence"]) == (found.intent.product, found.confidence)
    assert server.client.delete("/v1/catalogs/menu.1").status_code == 204
    gone = server.client.post("/v1/intents", json={"message": "tea", "catalog_id": "menu.1"})
    assert gone.status_code == 404


def test_a_second_variant_answers_by_its_name(server: Server) -> None:
    answer = server.client.post("/v1/intents", json=body(ROWS[0], variant="baseline")).json()
    assert (answer["variant"], answer["confidence"]) == ("baseline", None)


@pytest.mark.parametrize(
    ("path", "asked", "word"),
    [
        ("/v1/intents", {"message": " \n", "catalog": ["Tea"]}, "blank"),
        ("/v1/intents", {"message": "x\x00", "catalog": ["Tea"]}, "U+0000"),
        ("/v1/intents", {"message": "tea", "catalog": ["Tea", "Tea"]}, "twice"),
        ("/v1/intents", {"message": "tea", "catalog": ["Tea "]}, "blanks"),
        ("/v1/intents", {"message": "tea " * 400, "catalog": [f"Tea {n}" for n in range(99)]}, "640"),
        ("/v1/intents", {"message": "tea"}, "catalog"),
        ("/v1/intents", {"message": "tea", "catalog": ["Tea"], "catalog_id": "a"}, "catalog"),
        ("/v1/intents", {"message": "tea", "catalog": []}, "catalog"),
        ("/v1/intents", {"message": "tea", "catalog": ["Tea"], "more": 1}, "more"),
        ("/v1/intents", {"message": 7, "catalog": ["Tea"]}, "message"),
        ("/v1/intents", {"message": "t" * 2001, "catalog": ["Tea"]}, "message"),
        ("/v1/intents", [], "body"),
        ("/v1/intents/batch", {"messages": [], "catalog": ["Tea"]}, "messages"),
        ("/v1/intents/batch", {"messages": ["tea"] * 257, "catalog": ["Tea"]}, "messages"),
        (
            "/v1/chat/completions",
            {"model": "toy", "messages": [{"role": "user", "content": "tea"}]},
            "Catalog:",
        ),
        ("/v1/chat/completions", {"model": "toy", "messages": [{"role": "system", "content": "t"}]}, "user"),
        ("/v1/chat/completions", {"model": "toy", "messages": []}, "messages"),
        ("/v1/completions", {"model": "toy", "prompt": "Catalog:\nTea\n\nUser:\ntea", "n": True}, "n"),
        ("/v1/completions", {"model": "toy", "prompt": "Catalog:\nTea\n\nUser:\ntea", "stream": 0}, "stream"),
    ],
)
def test_what_cannot_be_read_is_422_and_one_line(server: Server, path: str, asked: Any, word: str) -> None:
    refused = server.client.post(path, json=asked)
    assert refused.status_code == 422
    line = refused.json()["error"]["message"]
    assert word in line
    assert "\n" not in line
    assert len(line) <= 300


@pytest.mark.parametrize(
    "data", [b"", b"{", b"[" * 9999, b"\xff\xfe", b'{"message": 1e999}', b"NaN", b"1" * 5000]
)
def test_what_is_no_json_is_no_fault_of_the_server(server: Server, data: bytes) -> None:
    for kind in ("application/json", "text/plain", "application/x-www-form-urlencoded"):
        refused = server.client.post("/v1/intents", content=data, headers={"content-type": kind})
        assert refused.status_code in (400, 422), refused.text


def test_a_body_that_is_not_sent_as_json_says_how_to(server: Server) -> None:
    body = b'{"message": "two", "catalog": ["Tea"]}'
    plain = server.client.post("/v1/intents", content=body, headers={"Content-Type": "text/plain"})
    broken = server.client.post(
        "/v1/intents", content=body[:20], headers={"Content-Type": "application/json"}
    )
    for refused, word in ((plain, "Content-Type: application/json"), (broken, "no JSON, at character 19")):
        assert refused.status_code == 422
        assert word in refused.json()["error"]["message"]


@pytest.mark.parametrize("api", ["chat", "completions"])
def test_cartlms_own_client_gets_the_same_intents(server: Server, api: str) -> None:
    remote = Remote(
        engine="openai", base_url=f"{server.url}/v1", model="toy", api_key_env=None, api=api,  # type: ignore[arg-type]
        instruction="Answer with JSON." if api == "chat" else None, max_new_tokens=96, token_limit="max_tokens",
        temperature=0.0, concurrency=1, max_retries=0, timeout_s=60.0,
        input_price=None, output_price=None, price_source=None,
    )  # fmt: skip
    with Client(remote, None, "make remote") as client:
        for row in ROWS:
            reply = client.ask(row_request(row, remote, "\n").body)
            assert parse_intent(reply.text) == server.reader.predict(row.catalog, row.message).intent
            assert (reply.finish_reason, reply.model) == ("stop", "toy")
            assert (reply.prompt_tokens or 0) > 20
        blank = [{"role": "user", "content": "Catalog:\nTea\n\nUser:\n "}]
        with pytest.raises(RequestFailed, match="blank"):
            client.ask({"model": "toy", "max_tokens": 9, "messages": blank})


def test_the_openai_client_works_streaming_or_not(server: Server) -> None:
    client = openai.OpenAI(api_key="none", base_url=f"{server.url}/v1", max_retries=0, timeout=60)
    assert [model.id for model in client.models.list()] == ["toy", "baseline"]
    assert client.models.retrieve("baseline").owned_by == "cartlm"
    row = ROWS[1]
    parts: Any = [{"type": "text", "text": row.prompt[:40]}, {"type": "text", "text": row.prompt[40:]}]
    wanted = server.reader.predict(row.catalog, row.message).intent.canonical()
    whole = client.chat.completions.create(
        model="toy", messages=[{"role": "system", "content": "JSON"}, {"role": "user", "content": parts}],
        temperature=0.7, max_completion_tokens=5, response_format={"type": "json_object"},
    )  # fmt: skip
    assert whole.choices[0].message.content == wanted
    assert whole.usage is not None
    assert whole.usage.total_tokens == whole.usage.prompt_tokens + whole.usage.completion_tokens > 40
    stream = client.chat.completions.create(
        model="toy", messages=[{"role": "user", "content": row.prompt}], stream=True,
        stream_options={"include_usage": True},
    )  # fmt: skip
    chunks = list(stream)
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == wanted
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "stop"
    assert chunks[-1].usage == whole.usage
    text = client.completions.create(model="toy", prompt=row.prompt + "\n", stream=True)
    assert "".join(c.choices[0].text for c in text) == wanted
    with pytest.raises(openai.NotFoundError, match="no variant 'gpt'"):
        client.chat.completions.create(model="gpt", messages=[{"role": "user", "content": row.prompt}])
    with pytest.raises(openai.UnprocessableEntityError):
        client.chat.completions.create(model="toy", messages=[{"role": "user", "content": row.prompt}], n=2)


def test_the_prefix_cache_and_confidence_are_measured(server: Server) -> None:
    for _ in range(2):
        server.client.post("/v1/intents", json=body(ROWS[0]))
    text = server.client.get("/metrics").text
    values = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    assert float(values['cartlm_prefix_cache_total{result="hit",variant="toy"}']) >= 1
    assert float(values['cartlm_prefix_cache_total{result="miss",variant="toy"}']) >= 1
    assert float(values['cartlm_confidence_count{variant="toy"}']) >= 2
    assert float(values['cartlm_tokens_total{kind="prompt_cached",variant="toy"}']) > 0
    assert float(values["process_resident_memory_bytes"]) > 2**20


def test_states(server: Server) -> None:
    for path in ("/healthz", "/readyz"):
        assert server.client.get(path).json() == {"status": "ok"}
    described = server.client.get("/openapi.json").json()
    assert "/v1/intents" in described["paths"]
    assert "HTTPValidationError" not in json.dumps(described)


def test_heads_that_no_client_sends(server: Server) -> None:
    """Refused or cut off, and the next request is answered."""
    for head in (
        b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX-A: " + b"a" * (4 * MAX_HEADERS) + b"\r\n\r\n",
        b"GET /" + b"a" * (4 * MAX_HEADERS) + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET /%00%ff%2e%2e/\xff HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"nonsense\r\n\r\n",
    ):
        with socket.create_connection(
            ("127.0.0.1", urlsplit(server.url).port or 0), timeout=20
        ) as connection:
            try:
                connection.sendall(head)
                answer = connection.recv(2**16)
            except ConnectionError:  # it closed before all was sent
                answer = b""
        assert not answer or answer.split()[1][:1] == b"4", answer
    assert server.client.get("/healthz").status_code == 200
