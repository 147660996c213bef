"""How a server is reached, and what its errors mean: proxies, waits, failed requests."""

from __future__ import annotations

import ipaddress
import os
import re
import socket
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


class RequestFailed(Exception):
    """A request without a whole answer: `what` happened, in one line without the key, and a `hint`.

    `retryable`: another try may succeed, no sooner than in `retry_after_s`. `free`: the server did no work, so the
    try cost nothing.
    """

    def __init__(
        self, what: str, hint: str = "", retryable: bool = False, retry_after_s: float = 0.0, free: bool = False
    ) -> None:  # fmt: skip
        self.what, self.hint = what, hint
        self.retryable, self.retry_after_s, self.free = retryable, retry_after_s, free

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
    except ImportError:  # httpx prepares every proxy, used or not
        socks = [_proxy_setting(kind) for kind, value in getproxies().items() if value.startswith("socks")]
        raise UserError(
            f"{socks[0]} is a SOCKS proxy, which needs a package", "pip install socksio"
        ) from None
    except OSError as error:
        names = [name for name in ("SSL_CERT_FILE", "SSL_CERT_DIR") if os.environ.get(name)]
        where = ", ".join(f"{name}={os.environ[name]}" for name in names)
        raise UserError(f"{where}: {error.strerror or error}", f"unset {' '.join(names)}") from None
    except Exception as error:  # httpx.InvalidURL is no ValueError
        wrong = proxy or next(map(_proxy_setting, getproxies()), "a proxy of the environment")
        raise UserError(f"{wrong} is no usable proxy: {error}", f"unset {wrong.partition('=')[0]}") from None


def _proxy_setting(kind: str) -> str:
    """`VARIABLE=address` of a kind of proxy, without user and password."""
    head, _, address = getproxies()[kind].rpartition("@")
    scheme = f"{head.partition('://')[0]}://" if "://" in head else ""
    return f"{kind.upper()}_PROXY={scheme}{address}"


def is_loopback(host: str) -> bool:
    """Whether a host name or address is this machine."""
    host = host.rstrip(".").lower()
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:  # inet_aton also reads 127.1
        address = ipaddress.ip_address(host if ":" in host else socket.inet_ntoa(socket.inet_aton(host)))
    except (ValueError, OSError):
        return False
    address = getattr(address, "ipv4_mapped", None) or address
    return address.is_loopback or address.is_unspecified


def refused_field_hint(message: str) -> str:
    """The param to change where a server's message refuses a field of the request; empty for other messages."""
    return next((hint for part, hint in HINTS if part in message and REFUSED.search(message)), "")


def error_message(body: Any) -> str:
    """The message in the decoded body of an error, in the forms that servers use; empty for none."""
    for name in ("error", "message", "detail"):
        if isinstance(body, dict) and body.get(name):
            body = body[name]
    if isinstance(
        body, list
    ):  # FastAPI: [{"loc": ["body", "max_tokens"], "msg": "extra fields not permitted"}]
        parts = [
            [*map(str, item.get("loc") or ()), error_message(item.get("msg") or item.get("message"))]
            for item in body
            if isinstance(item, dict)
        ]
        return "; ".join(" ".join(part) for part in parts)
    return body if isinstance(body, str) else ""


def retry_after_s(header: str | None) -> float:
    """The seconds to wait by a Retry-After header, a number or a date, at most two minutes; 0 without one."""
    try:
        seconds = float(header or 0)
    except ValueError:
        try:
            seconds = (parsedate_to_datetime(str(header)) - datetime.now(UTC)).total_seconds()
        except (ValueError, TypeError):  # TypeError: a date without a zone
            return 0.0
    return min(120.0, max(0.0, seconds))
