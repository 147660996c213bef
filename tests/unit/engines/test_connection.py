"""What servers and proxies say, and what it means."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from cartlm.engines.connection import error_message, is_loopback, refused_field_hint, retry_after_s


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "127.8.8.8", "127.1", "localhost", "localhost.", "a.localhost", "::1", "::ffff:127.0.0.1", "0.0.0.0"],
)  # fmt: skip
def test_loopback_hosts(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["1.2.3.4.5", "10.0.0.1", "shop.invalid", "localhost.invalid", "::2", ""])
def test_other_hosts(host: str) -> None:
    assert not is_loopback(host)


@pytest.mark.parametrize(
    ("header", "seconds"),
    [(None, 0), ("2", 2), ("0.5", 0.5), ("-3", 0), ("1e9", 120), ("soon", 0), ("nan", 0)],
)
def test_retry_after_in_seconds(header: str | None, seconds: float) -> None:
    assert retry_after_s(header) == seconds


def test_retry_after_as_a_date() -> None:
    later = datetime.now(UTC) + timedelta(seconds=30)
    assert 25 < retry_after_s(format_datetime(later, usegmt=True)) <= 30
    assert retry_after_s(format_datetime(later - timedelta(hours=1), usegmt=True)) == 0
    assert retry_after_s(format_datetime(later + timedelta(days=1), usegmt=True)) == 120


@pytest.mark.parametrize(
    ("message", "param"),
    [
        ("Unsupported parameter: 'max_tokens' is not supported. Use 'max_completion_tokens' instead.",
         "token_limit to max_completion_tokens"),
        ("Unrecognized request argument supplied: max_completion_tokens", "token_limit to max_tokens"),
        ("Unsupported value: 'temperature' does not support 0 with this model.", "temperature to null"),
        ("max_tokens is too large: this model's maximum context length is 64 tokens", ""),
    ],
)  # fmt: skip
def test_a_refused_field_names_the_param(message: str, param: str) -> None:
    hint = refused_field_hint(message)
    assert param in hint
    assert bool(param) == bool(hint)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"error": {"message": "model is loading", "type": "unavailable"}}, "model is loading"),
        ({"error": "model is loading"}, "model is loading"),
        ({"object": "error", "message": "model is loading", "code": 503}, "model is loading"),
        ({"detail": [{"loc": ["body", "max_tokens"], "msg": "extra fields"}]}, "body max_tokens extra fields"),
        (None, ""), ([], ""), ({"choices": []}, ""),
    ],
)  # fmt: skip
def test_error_messages_of_all_forms(body: object, message: str) -> None:
    assert error_message(body) == message
