"""Where `cartlm serve` may bind, and its keys."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from cartlm.errors import UserError
from cartlm.serving.http.server import KEY, Address, bind, read_keys


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "127.9.9.9"])
def test_this_machine_needs_no_key(host: str) -> None:
    with bind(Address(host, 0), has_key=False) as bound:
        assert bound.getsockname()[0].startswith("127.")


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "::ffff:0.0.0.0"])
def test_all_others_need_one(host: str) -> None:
    with pytest.raises(UserError, match="--key-file"):
        bind(Address(host, 0), has_key=False)


def test_with_a_key_any_address_can_be_bound() -> None:
    with bind(Address("0.0.0.0", 0), has_key=True) as bound:
        assert bound.getsockname()[0] == "0.0.0.0"


def test_what_cannot_be_bound_is_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=f"in use; --port {port + 1}"):
            bind(Address("127.0.0.1", port), has_key=False)
    with pytest.raises(UserError, match="no address"):
        bind(Address("no.such.host.invalid", 0), has_key=True)


def test_keys_are_of_the_file_or_of_the_environment(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("one-key\n\n  other-key \r\n")
    assert read_keys(file, {}) == ("one-key", "other-key")
    assert read_keys(None, {KEY: "third-key"}) == ("third-key",)
    assert read_keys(None, {}) == ()


@pytest.mark.parametrize("text", ["", "\n \n", "k\xe9y", "two words", "bell\x07"])
def test_an_unusable_key_is_refused_and_not_shown(tmp_path: Path, text: str) -> None:
    file = tmp_path / "keys"
    file.write_text(text, encoding="utf-8")
    for given in ((file, {}), (None, {KEY: text})):
        with pytest.raises(UserError) as caught:
            read_keys(*given)
        assert not text.strip() or text not in str(caught.value)
    with pytest.raises(FileNotFoundError):
        read_keys(tmp_path / "none", {})
    with pytest.raises(UserError, match="unset"):
        read_keys(file, {KEY: "third-key"})
