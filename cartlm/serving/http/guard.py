"""Who may ask, and how much a request may send: decided before the application sees it."""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Sequence
from hashlib import sha256
from ipaddress import IPv6Address, ip_address
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cartlm.serving.http.failures import Refused
from cartlm.serving.http.limits import MAX_BODY, MAX_HEADERS, MAX_PATH, Limits

OPEN = frozenset({"/", "/healthz", "/readyz", "/docs", "/openapi.json"})
"""What needs no key: none of them tells anything about a shop."""
FORWARDED = ("forwarded", "x-forwarded-for", "x-forwarded-host", "x-real-ip")
DRAINED = 16 * MAX_BODY
"""Of a body that is too large so many bytes are read, so that its sender reads the answer."""


class Guard:
    """An ASGI application in front of another one.

    With `keys` each request needs one as `Authorization: Bearer KEY`. Without, only this machine may ask: the client's
    address is loopback, no proxy stands in between, and no web page of another origin asks (by its own name for this
    machine, or from a form).
    """

    def __init__(self, app: ASGIApp, keys: Sequence[str], limits: Limits) -> None:
        self._app, self._limits = app, limits
        self._keys = [_digest(key.encode()) for key in keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        try:
            self._check_head(scope)
            body = await self._body(scope, receive)
        except Refused as error:
            await error.response()(scope, receive, send)
            return
        if body is None:  # the client left
            return
        parts: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

        async def whole() -> Message:
            return parts.pop() if parts else await receive()

        await self._app(scope, whole, send)

    def _check_head(self, scope: Scope) -> None:
        """Raises Refused."""
        headers = Headers(scope=scope)
        length = len(scope.get("raw_path") or scope["path"].encode()) + len(scope["query_string"])
        if length > MAX_PATH:
            raise Refused(414, f"path and query are longer than {MAX_PATH} bytes")
        if sum(len(name) + len(value) for name, value in headers.raw) > MAX_HEADERS:
            raise Refused(431, f"the headers are larger than {MAX_HEADERS} bytes")
        if self._keys:
            if scope["path"] not in OPEN:
                self._check_key(headers.get("authorization", ""))
        else:
            check_local(scope, headers)

    def _check_key(self, given: str) -> None:
        scheme, _, key = given.partition(" ")
        digest = _digest(key.strip().encode("latin-1", "replace"))
        same = [hmac.compare_digest(digest, known) for known in self._keys]
        if scheme.lower() != "bearer" or not any(same):
            what = "send a key of this service as Authorization: Bearer KEY"
            raise Refused(401, what, {"WWW-Authenticate": "Bearer"})

    async def _body(self, scope: Scope, receive: Receive) -> bytes | None:
        """The whole body; None where the client left. Raises Refused for one that is too large or too slow."""
        body, size, more = bytearray(), 0, True
        try:
            async with asyncio.timeout(self._limits.timeout_s):
                while more and size <= DRAINED:
                    part = await receive()
                    if part["type"] == "http.disconnect":
                        return None
                    chunk = part.get("body", b"")
                    size, more = size + len(chunk), part.get("more_body", False)
                    if size <= MAX_BODY:
                        body += chunk
                    else:
                        body.clear()
        except TimeoutError:
            what = f"the body did not arrive within {self._limits.timeout_s:g} s"
            raise Refused(408, what, {"Connection": "close"}) from None
        if size > MAX_BODY:
            raise Refused(413, f"the body is larger than {MAX_BODY} bytes")
        return bytes(body)


def check_local(scope: Scope, headers: Headers) -> None:
    """Raises Refused (403) where anything but a program on this machine asks."""
    client = scope.get("client")
    if client is None or not is_loopback(client[0]):
        raise Refused(403, "without a key only this machine may ask: start the service with one")
    if found := [name for name in FORWARDED if name in headers]:
        raise Refused(403, f"without a key no proxy may ask ({found[0]}): start the service with one")
    host, origin = headers.get("host", ""), headers.get("origin")
    try:
        name = urlsplit(f"//{host}").hostname or ""
        page = host if origin is None else urlsplit(origin).netloc
    except ValueError:
        name = page = ""
    if name != "localhost" and not is_loopback(name):
        raise Refused(403, "without a key the Host of a request is localhost or its address")
    if page != host:
        raise Refused(403, "without a key no page of another origin may ask")


def is_loopback(address: str) -> bool:
    """Whether an IP address is this machine's own; False for any other text."""
    try:
        ip = ip_address(address)
    except ValueError:
        return False
    if isinstance(ip, IPv6Address) and ip.ipv4_mapped is not None:
        ip = ip.ipv4_mapped
    return ip.is_loopback


def _digest(key: bytes) -> bytes:
    """Of one length, so that a comparison does not tell a key's."""
    return sha256(key).digest()
