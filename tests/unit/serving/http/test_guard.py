"""Who may ask, and how much a request may send."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from cartlm.serving.http import guard, limits
from tests.fixtures.http_service import CATALOG
from tests.unit.serving.http.conftest import Serve, ask, client, message

KEY, OTHER = "correct-horse", "battery-staple"
BODY = {"message": "tea", "catalog": CATALOG}


def test_each_key_opens_and_nothing_else_does(serve: Serve) -> None:
    app = serve(keys=(KEY, OTHER)).app
    for header in (f"Bearer {KEY}", f"bearer {OTHER}", f"Bearer  {KEY} "):
        assert ask(app, "GET", "/v1/models", headers={"Authorization": header}).status_code == 200
    wrong = ["", KEY, f"Basic {KEY}", "Bearer ", f"Bearer {KEY[:-1]}", f"Bearer {KEY}x", "Bearer \xe9"]
    for header in wrong:
        refused = ask(app, "GET", "/v1/models", headers=[(b"Authorization", header.encode("latin-1"))])
        assert (refused.status_code, refused.headers["WWW-Authenticate"]) == (401, "Bearer")
        assert KEY not in message(refused)


def test_all_of_v1_and_the_metrics_need_the_key(serve: Serve) -> None:
    app = serve(keys=(KEY,)).app
    asked = [
        ("PUT", "/v1/catalogs/a"),
        ("POST", "/v1/intents"),
        ("POST", "/v1/models/second"),
        ("GET", "/metrics"),
    ]
    asked += [("GET", "/v1/nothing"), ("GET", "/nothing"), ("POST", "/v1/chat/completions")]
    assert {ask(app, method, path, json=BODY).status_code for method, path in asked} == {401}
    for path in ("/healthz", "/readyz", "/openapi.json"):
        assert ask(app, "GET", path, address="203.0.113.9", host="shop.example").status_code == 200


@pytest.mark.parametrize("address", ["127.0.0.1", "127.8.8.8", "::1", "::ffff:127.0.0.1"])
@pytest.mark.parametrize("host", ["localhost", "localhost:8000", "127.0.0.1:8000", "[::1]:8000"])
def test_without_a_key_this_machine_may_ask(serve: Serve, address: str, host: str) -> None:
    assert ask(serve().app, "GET", "/v1/models", address=address, host=host).status_code == 200


@pytest.mark.parametrize(
    "address", ["10.0.0.7", "203.0.113.9", "fe80::1", "::ffff:10.0.0.7", "testclient", ""]
)
def test_without_a_key_no_other_machine_may_ask(serve: Serve, address: str) -> None:
    app = serve().app
    for path in ("/v1/models", "/healthz", "/metrics"):
        assert ask(app, "GET", path, address=address).status_code == 403
    with_key = serve(keys=(KEY,)).app
    allowed = ask(with_key, "GET", "/v1/models", address=address, headers={"Authorization": f"Bearer {KEY}"})
    assert allowed.status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"X-Forwarded-For": "203.0.113.9"},
        {"Forwarded": "for=203.0.113.9"},
        {"Host": "evil.example"},  # a name of its own for 127.0.0.1
        {"Host": "127.0.0.1.evil.example"},
        {"Host": "[::1"},
        {"Host": ""},
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://localhost:9"},
        {"Origin": "http://["},
    ],
)
def test_without_a_key_neither_proxy_nor_foreign_page_may_ask(serve: Serve, headers: dict[str, str]) -> None:
    app = serve().app
    assert ask(app, "POST", "/v1/models/second", headers=headers).status_code == 403
    same = {"Origin": "http://localhost"}
    assert ask(app, "GET", "/v1/models", headers=same).status_code == 200


def test_a_body_has_a_limit_whether_its_length_is_told_or_not(serve: Serve) -> None:
    app = serve().app
    text = b" " * (limits.MAX_BODY - 1) + b"1"

    async def parts(data: bytes) -> AsyncIterator[bytes]:
        for at in range(0, len(data), 2**16):
            yield data[at : at + 2**16]

    async def send(data: bytes) -> list[int]:
        async with client(app) as asking:
            told = await asking.post("/v1/intents", content=data)
            untold = await asking.post("/v1/intents", content=parts(data))
            return [told.status_code, untold.status_code]

    assert asyncio.run(send(text)) == [422, 422]
    assert asyncio.run(send(text + b" ")) == [413, 413]
    assert asyncio.run(send(b"x" * (guard.DRAINED + 2**17))) == [413, 413]


def test_path_and_headers_have_limits(serve: Serve) -> None:
    app = serve().app
    room = limits.MAX_PATH - len("/v1/models/")
    assert ask(app, "GET", "/v1/models/" + "x" * room).status_code == 404
    assert ask(app, "GET", "/v1/models/" + "x" * (room + 1)).status_code == 414
    assert ask(app, "GET", "/v1/models?" + "x" * room).status_code == 200
    assert ask(app, "GET", "/v1/models?" + "x" * (room + 2)).status_code == 414
    assert ask(app, "GET", "/v1/models", headers={"X-Large": "x" * limits.MAX_HEADERS}).status_code == 431


def test_a_body_that_comes_too_slowly_is_refused(serve: Serve) -> None:
    app = serve(limits=limits.Limits(4, 0.05)).app

    async def slow() -> AsyncIterator[bytes]:
        yield b"{"
        await asyncio.sleep(30)

    async def send() -> int:
        async with client(app) as asking:
            return (await asking.post("/v1/intents", content=slow())).status_code

    assert asyncio.run(send()) == 408
