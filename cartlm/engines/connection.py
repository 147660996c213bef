"""How a server is reached and what it says besides answers: proxies, waits, the words of its errors."""

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
"""What a server's words mention that refuse a field of the request, and what helps; the first that fits."""


def http_client(url: str) -> tuple[str, Any]:
    """`VARIABLE=address` of the proxy on the way to `url`, empty for none, and a client for openai that takes it.

    A server on this machine is asked directly. Raises UserError for a proxy that cannot be used.
    """
    import openai

    parts = urlsplit(url)
    host = parts.hostname or ""
    if is_loopback(host):
        return "", openai.DefaultHttpxClient(trust_env=False)
    proxy = _proxy(parts.scheme, host)
    try:  # the environment also names certificates of one's own
        return proxy, openai.DefaultHttpxClient()
    except ImportError:  # httpx makes a transport for each proxy, used or not
        if not proxy:
            return "", openai.DefaultHttpxClient(trust_env=False)
        socks = next(
            (_shown(kind) for kind, value in getproxies().items() if value.startswith("socks")), proxy
        )
        raise UserError(f"{socks} is a SOCKS proxy, which needs a package", "pip install socksio") from None
    except OSError as error:
        names = [name for name in ("SSL_CERT_FILE", "SSL_CERT_DIR") if os.environ.get(name)]
        named = ", ".join(f"{name}={os.environ[name]}" for name in names) or "the certificates"
        raise UserError(
            f"{named}: {error.strerror or error}", f"unset {' '.join(names)}" if names else ""
        ) from None
    except Exception as error:  # httpx.InvalidURL is no ValueError
        wrong = proxy or next(map(_shown, getproxies()), "a proxy of the environment")
        raise UserError(f"{wrong} is no usable proxy: {error}", f"unset {wrong.partition('=')[0]}") from None


def _proxy(scheme: str, host: str) -> str:
    """`VARIABLE=address` of the environment's proxy for a host, without a password; empty for none, as on this machine."""
    if is_loopback(host) or proxy_bypass(host):
        return ""
    return next((_shown(kind) for kind in (scheme, "all") if getproxies().get(kind)), "")


def _shown(kind: str) -> str:
    """`VARIABLE=address` of a kind of proxy, without user and password."""
    head, _, address = getproxies()[kind].rpartition("@")
    scheme = f"{head.partition('://')[0]}://" if "://" in head else ""
    return f"{kind.upper()}_PROXY={scheme}{address}"


def is_loopback(host: str) -> bool:
    """Whether a host name or address is this machine."""
    host = host.rstrip(".").lower()
    try:
        address: Any = ipaddress.ip_address(host)
    except ValueError:
        if not re.fullmatch(r"[\d.]+", host):
            return host == "localhost" or host.endswith(".localhost")
        try:
            address = ipaddress.ip_address(socket.inet_aton(host))  # 127.1
        except OSError:
            return False
    address = getattr(address, "ipv4_mapped", None) or address
    return address.is_loopback or address.is_unspecified


def refused_field(said: str) -> str:
    """The setting that helps where a server's words refuse a field of the request; empty where they do not."""
    fitting = [help for name, help in HINTS if name in said] if REFUSED.search(said) else []
    return fitting[0] if fitting else ""


def words(value: Any) -> str:
    """What the body of an error says, in the forms that servers use; empty for none."""
    for name in ("error", "message", "detail"):
        if isinstance(value, dict) and value.get(name):
            value = value[name]
    if isinstance(
        value, list
    ):  # FastAPI: [{"loc": ["body", "max_tokens"], "msg": "extra fields not permitted"}]
        each = [one for one in value if isinstance(one, dict)]
        pairs = [
            (*map(str, one.get("loc") or ()), words(one.get("msg") or one.get("message"))) for one in each
        ]
        value = "; ".join(" ".join(pair) for pair in pairs)
    return value if isinstance(value, str) else ""


def retry_after_s(text: str | None) -> float:
    """The seconds to wait by a Retry-After header, a number or a date, at most two minutes; 0 for none."""
    try:
        seconds = float(text or 0)
    except ValueError:
        try:
            seconds = (parsedate_to_datetime(str(text)) - datetime.now(UTC)).total_seconds()
        except (ValueError, TypeError):  # TypeError: a date without a zone
            return 0.0
    return min(120.0, max(0.0, seconds))
