"""How a server is reached, and what its errors mean: proxies, waits, failed requests."""

from __future__ import annotations

import ipaddress
import os
import re
import socket
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from cartlm.errors import UserError

REFUSED = re.compile(
    r"(?i)unsupported|not support|unknown|unrecogni[sz]ed|not permitted|not allowed|unexpected|extra"
)
HINTS = (
    ("Use 'max_completion_tokens'", "set token_limit to max_completion_tokens in params.yaml"),
    ("max_completion_tokens", "set token_limit to max_tokens in params.yaml"),
    ("max_tokens", "set token_limit to max_completion_tokens in params.yaml"),
    ("temperature", "set temperature to null in params.yaml"),
    ("response_format", "set data.openai.structured to false in params.yaml"),
    ("json_schema", "set data.openai.structured to false in params.yaml"),
)
"""Part of a message that refuses a field of the request, and the param to change; the first match counts."""


@dataclass(eq=False)
class RequestFailed(Exception):
    """A request without a whole answer: `what` happened, in one line without the key, and a `hint`.

    `retryable`: another try may succeed, no sooner than in `retry_after_s`. `free`: the server did no work, so the
    try cost nothing.
    """

    what: str
    hint: str = ""
    retryable: bool = False
    retry_after_s: float = 0.0
    free: bool = False

    def __str__(self) -> str:
        return self.what


def http_client(url: str) -> tuple[str, Any]:
    """The proxy on the way to `url` as `VARIABLE=address` (empty: none), and an httpx client for the openai package.

    A server on this machine is asked directly. Raises UserError for an unusable proxy.
    """
    import openai

    parts = urlsplit(url)
    host = parts.hostname or ""
    if is_loopback(host):
        return "", openai.DefaultHttpxClient(trust_env=False)
    kinds = [] if proxy_bypass(host) else [kind for kind in (parts.scheme, "all") if getproxies().get(kind)]
    proxy = next(map(_proxy_setting, kinds), "")
    try:  # trusts the environment, which may also name certificates
        return proxy, openai.DefaultHttpxClient()
    except Exception as error:  # httpx prepares every proxy, used or not; its InvalidURL is no ValueError
        files = [
            f"{name}={os.environ[name]}" for name in ("SSL_CERT_FILE", "SSL_CERT_DIR") if name in os.environ
        ]
        proxies = [_proxy_setting(kind) for kind in getproxies() if kind != "no"]
        settings = files if isinstance(error, OSError) else proxies
        hint = "unset the one that is wrong; a SOCKS proxy needs pip install socksio"
        raise UserError(f"{', '.join(settings)} cannot be used: {error}", hint) from None


def _proxy_setting(kind: str) -> str:
    """`VARIABLE=address` of a kind of proxy, without user and password."""
    return f"{kind.upper()}_PROXY={getproxies()[kind].rpartition('@')[2]}"


def is_loopback(host: str) -> bool:
    """Whether a host name or address is this machine."""
    host = host.rstrip(".").lower()
    if host == "localhost" or host.endswith(".localhost"):
        return True
    with suppress(ValueError, OSError):  # inet_aton also reads 127.1
        address = ipaddress.ip_address(host if ":" in host else socket.inet_ntoa(socket.inet_aton(host)))
        address = getattr(address, "ipv4_mapped", None) or address
        return address.is_loopback or address.is_unspecified
    return False


def refused_field_hint(message: str) -> str:
    """The param to change where a server's message refuses a field of the request; empty for other messages."""
    return next((hint for part, hint in HINTS if part in message and REFUSED.search(message)), "")


def error_message(body: Any) -> str:
    """The message in the decoded body of an error, in the forms that servers use; empty for none."""
    match body:
        case str():
            return body
        case list():
            return "; ".join(map(error_message, body))
        case dict():  # FastAPI: {"loc": ["body", "max_tokens"], "msg": "extra fields not permitted"}
            inner = next(filter(None, map(body.get, ("error", "message", "detail", "msg"))), "")
            place = body.get("loc")
            return " ".join([*map(str, place if isinstance(place, list) else ()), error_message(inner)])
    return ""


def retry_after_s(header: str | None) -> float:
    """The seconds to wait by a Retry-After header, a number or a date, at most two minutes; 0 without one."""
    with suppress(ValueError, TypeError):  # TypeError: a date without a zone
        try:
            seconds = float(header or 0)
        except ValueError:
            seconds = (parsedate_to_datetime(str(header)) - datetime.now(UTC)).total_seconds()
        return min(120.0, max(0.0, seconds))
    return 0.0
