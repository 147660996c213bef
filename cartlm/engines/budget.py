"""What a run may spend on requests to a server."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from typing import Any

from cartlm.engines.connection import RequestFailed


class Budget:
    """Limits on new requests and on their tokens, as the server counts them; None is no limit. Thread-safe.

    Every try counts. A try is let through only if its largest possible cost fits, at one token for two bytes (fewer
    than a token has on average): neither limit is ever passed.
    """

    def __init__(self, requests: int | None, tokens: int | None) -> None:
        self._requests, self._tokens = requests, tokens
        self._lock = threading.Lock()
        self.requests = self.tokens = 0

    def reserve(self, body: Mapping[str, Any]) -> int:
        """Reserve tokens for a request; returns how many. Raises RequestFailed where they do not fit."""
        size = len(json.dumps(body, ensure_ascii=False).encode("utf-8", "surrogatepass"))
        most = size // 2 + (body.get("max_tokens") or body["max_completion_tokens"])
        with self._lock:
            if self._requests is not None and self.requests >= self._requests:
                what = f"max_requests={self._requests} new requests are used up"
                raise RequestFailed(what, "raise it in params.yaml")
            if self._tokens is not None and self.tokens + most > self._tokens:
                used = f"{self.tokens} of max_total_tokens={self._tokens} are used up"
                raise RequestFailed(
                    f"{used}, and the next request may need {most}", "raise it in params.yaml"
                )
            self.requests += 1
            self.tokens += most
        return most

    def settle(self, reserved: int, used: int | None) -> None:
        """Replace the reserved tokens by those used; None keeps them, where the use is unknown."""
        if used is not None:
            with self._lock:
                self.tokens += used - reserved
