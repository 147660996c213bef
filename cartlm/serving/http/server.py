"""`cartlm serve`: bind, load, answer until a signal comes, finish what was accepted."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import uvicorn
from starlette.types import ASGIApp

from cartlm.errors import UserError
from cartlm.serving.http import logs
from cartlm.serving.http.app import make_app
from cartlm.serving.http.guard import is_loopback
from cartlm.serving.http.limits import MAX_CONNECTIONS, MAX_HEADERS, MAX_PATH, Limits
from cartlm.serving.http.service import Service
from cartlm.serving.http.store import Store
from cartlm.serving.http.telemetry import Telemetry
from cartlm.serving.http.variants import Load, Variants

KEY = "CARTLM_API_KEY"
BACKLOG = 2048
TURNS, TURN_S = 10, 0.01  # turns, not time alone: each reads from all connections, however long it takes
KEEP_ALIVE_S = 75  # longer than the minute for which load balancers keep a connection


@dataclass(frozen=True)
class Address:
    host: str
    port: int


def serve(
    sources: list[str], load: Load, address: Address, catalogs: Path, keys: tuple[str, ...], limits: Limits,
    log_messages: bool = False,
) -> None:  # fmt: skip
    """Answer with the variants of `sources`, the first by default, until SIGTERM or SIGINT.

    Then no connection is accepted any more, and what was asked is answered. Raises UserError for an address that cannot be
    bound, or may not be without a key, and for what `load` and Store raise.
    """
    logs.to_stderr()
    with (
        bind(address, bool(keys)) as listening,
        opened(sources, load, catalogs, keys, limits, log_messages) as service,
    ):
        app, names = service
        host, port = listening.getsockname()[:2]
        url = f"http://{f'[{host}]' if ':' in host else host}:{port}"
        listening.listen(BACKLOG)  # from here on a request waits for the loop to begin
        print(f"{url} answers with {', '.join(names)}", flush=True)
        logs.event("ready", url=url, variants=names, key=bool(keys))
        _run(app, listening, limits)
    logs.event("stopped")


@contextmanager
def opened(
    sources: list[str], load: Load, catalogs: Path, keys: tuple[str, ...], limits: Limits, log_messages: bool = False
) -> Iterator[tuple[ASGIApp, list[str]]]:  # fmt: skip
    """The application with the variants of `sources` loaded, and their names. Raises what `load` and Store raise."""
    telemetry = Telemetry()
    variants = Variants(load, limits, telemetry.observe)
    store = Store(catalogs)
    try:
        variants.open(sources)
        yield make_app(Service(variants, store, telemetry, log_messages), keys, limits), variants.names
    finally:
        variants.close()
        store.close()


class _Server(uvicorn.Server):
    """Reads what clients have sent already before it ends: uvicorn closes a connection on which it has read nothing yet."""

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await asyncio.sleep(TURN_S)  # a turn of the loop accepts all that have connected
        for server in self.servers:
            server.close()
        for _ in range(TURNS):
            await asyncio.sleep(TURN_S)
        await super().shutdown(sockets)


def _run(app: ASGIApp, listening: socket.socket, limits: Limits) -> None:
    config = uvicorn.Config(
        app,
        loop="asyncio", http="h11", ws="none", lifespan="off",  # h11 bounds the head of a request, httptools does not
        log_config=None, access_log=False, server_header=False, proxy_headers=False,
        h11_max_incomplete_event_size=MAX_HEADERS + 4 * MAX_PATH, limit_concurrency=MAX_CONNECTIONS,
        timeout_keep_alive=KEEP_ALIVE_S, backlog=BACKLOG, timeout_graceful_shutdown=int(2 * limits.timeout_s) + 5,
    )  # fmt: skip
    # uvicorn raises the signal again when it is done: then there is nothing left to end
    before = {each: signal.signal(each, _nothing) for each in (signal.SIGTERM, signal.SIGINT)}
    try:
        _Server(config).run(sockets=[listening])
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _nothing(*_: object) -> None: ...


def bind(address: Address, has_key: bool) -> socket.socket:
    """A socket of that address, which does not listen yet. Raises UserError."""
    try:
        family, kind, protocol, _, place = socket.getaddrinfo(
            address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except OSError as error:
        raise UserError(
            f"there is no address {address.host!r}: {error.strerror}", "--host 127.0.0.1"
        ) from None
    if not has_key and not is_loopback(str(place[0])):
        what = f"without a key only this machine may ask, and {address.host} is open to others"
        raise UserError(what, f"export {KEY}=..., --key-file PATH or --host 127.0.0.1")
    bound = socket.socket(family, kind, protocol)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(place)
    except OSError as error:
        bound.close()
        way = (
            f"--port {address.port + 1}"
            if error.errno == errno.EADDRINUSE
            else "name another --host or --port"
        )
        what = f"{address.host}:{address.port} cannot be bound: {os.strerror(error.errno or 0)}"
        raise UserError(what, way) from None
    return bound


def read_keys(file: Path | None, environment: Mapping[str, str]) -> tuple[str, ...]:
    """The keys: a line of the file each, or the one of the variable CARTLM_API_KEY; none where neither is given.

    Raises UserError for both, for a file without a key, and for what no header can hold.
    """
    variable = environment.get(KEY)
    if file is not None and variable is not None:
        raise UserError(f"{KEY} is set, and {file} holds keys too", f"unset {KEY}, or leave out --key-file")
    if file is None and variable is None:
        return ()
    source = str(file) if file is not None else KEY
    text = file.read_text("utf-8", "replace") if file is not None else variable or ""
    keys = tuple(line.strip() for line in text.splitlines() if line.strip())
    if not keys:
        raise UserError(
            f"{source} holds no key", "python -c 'import secrets; print(secrets.token_urlsafe())'"
        )
    if any(not key.isascii() or not key.isprintable() or " " in key for key in keys):
        raise UserError(f"{source} holds characters that no key has", "use letters, digits, - and _")
    return keys
