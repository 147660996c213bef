"""How a server is reached and what it says besides answers: proxies, waits, the words of its errors."""

from __future__ import annotations

import ipaddress
import re
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
    proxy = _proxy(parts.scheme, parts.hostname or "")
    try:
        return proxy, openai.DefaultHttpxClient(trust_env=bool(proxy))
    except ImportError:
        raise UserError(f"{proxy} is a SOCKS proxy, which needs a package", "pip install socksio") from None
    except Exception as error:  # httpx.InvalidURL is no ValueError
        raise UserError(f"{proxy} is no usable proxy: {error}", f"unset {proxy.partition('=')[0]}") from None


def _proxy(scheme: str, host: str) -> str:
    """`VARIABLE=address` of the environment's proxy for a host, without a password; empty for none, as on this machine."""
    if is_loopback(host) or proxy_bypass(host):
        return ""
    for kind in (scheme, "all"):
        if given := getproxies().get(kind):
            where, at, rest = given.rpartition("@")
            return (
                f"{kind.upper()}_PROXY={where.partition('//')[0]}//{rest}"
                if at
                else f"{kind.upper()}_PROXY={given}"
            )
    return ""


def is_loopback(host: str) -> bool:
    """Whether a host name or address is this machine."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")
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
