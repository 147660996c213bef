"""A client of a service in the same process."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.fixtures.http_service import Served, served

Serve = Callable[..., Served]


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    """`served` with a folder of its own, closed at the end."""
    with ExitStack() as stack:
        yield lambda **options: stack.enter_context(served(tmp_path, **options))


def client(app: Any, address: str = "127.0.0.1", host: str = "localhost") -> httpx2.AsyncClient:
    """Asks as a program at that address does, of that host."""
    transport = httpx2.ASGITransport(app, client=(address, 50000), raise_app_exceptions=False)
    return httpx2.AsyncClient(transport=transport, base_url=f"http://{host}")


def ask(app: Any, method: str, path: str, **options: Any) -> httpx2.Response:
    """One request; `address` and `host` are the client's."""
    where = {name: options.pop(name) for name in ("address", "host") if name in options}

    async def run() -> httpx2.Response:
        async with client(app, **where) as asking:
            return await asking.request(method, path, **options)

    return asyncio.run(run())


def message(response: httpx2.Response) -> str:
    """The one line of an error."""
    line: str = response.json()["error"]["message"]
    assert "\n" not in line
    return line


def run(work: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(work)
