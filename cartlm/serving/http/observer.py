"""Around the whole service: each request gets an id, is counted, timed and logged."""

from __future__ import annotations

import time
import uuid
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cartlm.serving.http import logs
from cartlm.serving.http.telemetry import Telemetry

METHODS = ("DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT")
HEADERS = [(b"x-content-type-options", b"nosniff"), (b"cache-control", b"no-store")]


class Observer:
    """An ASGI application around another one, which adds what it wants logged to `scope["state"]["log"]`."""

    def __init__(self, app: ASGIApp, telemetry: Telemetry) -> None:
        self._app, self._telemetry = app, telemetry

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begun, status, id = time.perf_counter(), 0, uuid.uuid4().hex
        fields: dict[str, Any] = {}
        scope["state"] = {**scope.get("state", {}), "log": fields}

        async def counted(event: Message) -> None:
            nonlocal status
            if event["type"] == "http.response.start":
                status = event["status"]
                event["headers"] = [*event["headers"], *HEADERS, (b"x-request-id", id.encode())]
            await send(event)

        try:
            await self._app(scope, receive, counted)
        except Exception:
            logs.LOGGER.error("failed", exc_info=True, extra={"fields": {"request_id": id}})
        finally:
            took = time.perf_counter() - begun
            route = getattr(scope.get("route"), "path", "none")
            method = scope["method"] if scope["method"] in METHODS else "other"  # a client may invent some
            self._telemetry.requests.labels(method, route, str(status)).inc()
            self._telemetry.request_seconds.labels(route).observe(took)
            client = scope["client"][0] if scope.get("client") else None
            logs.event(
                "request", request_id=id, method=scope["method"], route=route, status=status,
                ms=round(1000 * took, 2), client=client, **fields,
            )  # fmt: skip
