"""The openai engine against a real llama-server, which must answer as the model does here, and a bad server."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cartlm.engines import llama_cpp
from cartlm.engines.config import Remote
from cartlm.engines.connection import RequestFailed
from cartlm.engines.openai import Client
from cartlm.errors import UserError
from cartlm.evaluation.remote import row_request
from cartlm.evaluation.scoring import score
from cartlm.task import rows as row_files
from cartlm.task.intent import Intent
from cartlm.task.prompt import FORMAT_HEADER
from tests.fixtures.base_gguf import base_gguf
from tests.fixtures.servers import Naughty, free_port, llama_server, no_surroundings
from tests.fixtures.toy import LINES

__all__ = ["base_gguf", "no_surroundings"]
KEY = "sk-test-0123456789-never-to-be-seen"
SETTINGS = {
    "engine": "openai", "base_url": None, "model": "m", "api": "chat", "api_key_env": None, "instruction": None,
    "max_new_tokens": 60, "token_limit": "max_tokens", "temperature": 0.0, "concurrency": 1, "max_retries": 0,
    "timeout_s": 20.0, "input_price": None, "output_price": None, "price_source": None,
}  # fmt: skip
CHAT: dict[str, Any] = {"model": "m", "max_tokens": 60, "messages": [{"role": "user", "content": "q"}]}
BARE: dict[str, Any] = {"model": "m", "max_tokens": 60, "prompt": "q"}


def remote(url: str, **changes: Any) -> Remote:
    return Remote.model_validate({**SETTINGS, "base_url": url, **changes})


def client(url: str, key: str | None = None, **changes: Any) -> Client:
    key_env = "SHOP_KEY" if key is not None else None
    return Client(remote(url, api_key_env=key_env, **changes), key, "make remote")


@pytest.fixture
def naughty() -> Iterator[Naughty]:
    with Naughty({"q": "yes"}) as server:
        yield server


def rows() -> list[row_files.Row]:
    """Ten rows that the base model can answer when asked with the header."""
    made = []
    for number, line in enumerate(LINES[:10]):
        catalog = [line, *[other for other in LINES if other != line][:4]]
        intent = Intent("remove" if number % 2 else "add", line, 1 if number % 2 else 2 + number % 3)
        said = f"makni {line}, hvala" if number % 2 else f"add {intent.quantity} {line}"
        made.append(row_files.make(f"r{number}", "english", catalog, said, intent, {}))
    return made


@pytest.fixture(scope="module")
def llama(base_gguf: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with llama_server(base_gguf, tmp_path_factory.mktemp("llama") / "log", "--api-key", KEY) as url:
        yield url


def bare(row: row_files.Row, limit: int) -> dict[str, Any]:
    return row_request(row, remote("http://x/v1", api="completions", max_new_tokens=limit), "\n").body


def test_llama_server_answers_as_the_model_does_here(llama: str, base_gguf: Path) -> None:
    """The same text from the same number of prompt tokens: one BOS, our separator, greedy."""
    exact = same = 0
    with client(llama, KEY) as asked, llama_cpp.load(base_gguf, threads=1) as engine:
        builder = engine.prompt_builder("\n")
        for row in rows():
            body = bare(row, 60)
            reply = asked.ask({**body, "prompt": FORMAT_HEADER + body["prompt"]})
            ids = builder.prompt_ids(FORMAT_HEADER + row.prompt)
            here = engine.answer(ids, 60)
            assert reply.prompt_tokens == len(ids)
            assert reply.completion_tokens in (
                here.decoded_tokens,
                here.decoded_tokens + 1,
            )  # EOS counts there
            assert 0 < reply.latency_s < 20
            same += (reply.text, reply.finish_reason) == (here.text, here.finish_reason)
            exact += score(row, reply.answer()).outcome == score(row, here).outcome == "exact"
    assert same >= 9  # the server's batches may round a tie otherwise
    assert exact >= 5


def test_llama_server_stops_at_the_limit(llama: str) -> None:
    with client(llama, KEY) as asked:
        reply = asked.ask(bare(rows()[0], 3))
    assert (reply.finish_reason, reply.completion_tokens, reply.retries) == ("length", 3, 0)
    assert score(rows()[0], reply.answer()).outcome == "truncated"
    assert reply.server in llama
    assert reply.client.startswith("openai ")


def test_llama_server_chats(llama: str) -> None:
    body = row_request(rows()[0], remote(llama, instruction="JSON", max_new_tokens=5), "\n").body
    with client(llama, KEY) as asked:
        reply = asked.ask(body)
    assert reply.completion_tokens == 5
    assert reply.prompt_tokens
    assert reply.text


def test_llama_server_refuses_a_wrong_key_without_showing_it(llama: str) -> None:
    wrong = KEY.replace("0", "9")
    with (
        client(llama, wrong) as asked,
        pytest.raises(RequestFailed, match="401, the server refuses the key in SHOP_KEY") as caught,
    ):
        asked.ask(BARE)
    assert wrong not in str(caught.value)


@pytest.mark.parametrize("misdeed", ["429", "500", "503", "408", "cut", "slow"])
def test_what_passes_is_tried_again(naughty: Naughty, misdeed: str) -> None:
    naughty.plan["q"] = [misdeed]
    started = time.monotonic()
    with client(naughty.url, timeout_s=1.0, max_retries=2) as asked:
        reply = asked.ask(CHAT)
    took = time.monotonic() - started
    assert (reply.text, reply.retries, len(naughty.seen)) == ("yes", 1, 2)
    assert reply.latency_s < 0.8  # of the try that succeeded
    if misdeed == "429":
        assert took >= 1.0, "Retry-After: 1"


@pytest.mark.parametrize(
    ("misdeed", "tries", "said"),
    [
        ("429", 2, "429 .*tried 2 times"), ("500", 2, "500 .*tried 2 times"), ("cut", 2, "does not answer .*tried 2"),
        ("slow", 2, "no answer within 0.5 s, tried 2 times"), ("401", 1, "401, the server refuses a request without"),
        ("400", 1, "400 "), ("404", 1, "404 "), ("garbage", 2, "no answer in the form of the OpenAI API.*tried 2"),
        ("empty", 2, "no answer in the form"), ("parts", 2, "no answer in"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("body", [CHAT, BARE], ids=["chat", "completions"])
def test_what_fails_for_good_is_one_line(
    naughty: Naughty, body: dict[str, Any], misdeed: str, tries: int, said: str
) -> None:
    naughty.plan["q"] = [misdeed] * 5
    with (
        client(naughty.url, timeout_s=0.5, max_retries=1) as asked,
        pytest.raises(RequestFailed, match=said) as caught,
    ):
        asked.ask(body)
    assert len(naughty.seen) == tries
    assert "\n" not in caught.value.what


def test_a_server_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    with (
        client(f"http://127.0.0.1:{free_port()}/v1") as asked,
        pytest.raises(RequestFailed, match=r"127.0.0.1:\d+ does not answer .*tried once") as caught,
    ):
        asked.ask(CHAT)
    assert caught.value.hint == "start the server"


@pytest.mark.parametrize("misdeed", ["400", "401", "403", "404", "429", "500", "garbage", "cut"])
def test_a_server_that_quotes_the_key_does_not_make_us_show_it(naughty: Naughty, misdeed: str) -> None:
    naughty.plan["q"] = [misdeed]
    with client(naughty.url, f"  {KEY}\n") as asked, pytest.raises(RequestFailed) as caught:
        asked.ask(CHAT)
    assert naughty.seen[0][1]["authorization"] == f"Bearer {KEY}"
    assert KEY not in f"{caught.value!r}{caught.value}{caught.value.hint}"


def test_a_server_without_keys_is_sent_none(naughty: Naughty, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with client(naughty.url) as asked:
        asked.ask(CHAT)
    assert KEY not in str(naughty.seen)


@pytest.mark.parametrize("key", [None, "", "  \n"])
def test_a_missing_key_names_its_variable(key: str | None) -> None:
    with pytest.raises(UserError, match=r"^SHOP_KEY is not set.*export SHOP_KEY=") as caught:
        Client(remote("http://x/v1", api_key_env="SHOP_KEY"), key, "make remote")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("key", ["sk-ž", "sk-\x00a", "sk-a\nsk-b", "sk a"])
def test_no_key_at_all_is_refused_before_a_library_prints_it(key: str) -> None:
    with pytest.raises(UserError, match="SHOP_KEY holds") as caught:
        Client(remote("http://x/v1", api_key_env="SHOP_KEY"), key, "make remote")
    assert key not in str(caught.value)


def test_a_server_without_usage_leaves_the_counts_open() -> None:
    with Naughty({"q": "yes"}, usage=False) as server, client(server.url) as asked:
        reply = asked.ask(CHAT)
    assert (reply.prompt_tokens, reply.completion_tokens) == (None, None)
    assert reply.model == "m-2026-01-01"


EMPTY: list[dict[str, Any]] = [
    {"message": {"role": "assistant", "content": None}},
    {"message": {"role": "assistant", "content": ""}},
    {"message": {"role": "assistant", "content": " \n"}},
    {"message": {"role": "assistant"}},
    {"message": {"role": "assistant", "content": []}},
    {"message": {"role": "assistant", "content": "\u200b"}},
    {"message": {"role": "assistant", "content": [{"type": "thinking", "thinking": "two"}]}},
    {"message": {"role": "assistant", "content": None, "reasoning_content": "2 of them, so"}},
    {"message": {"role": "assistant", "content": None, "reasoning": "hm"}, "finish_reason": "length"},
    {"message": {"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]}},
]


@pytest.mark.parametrize("choice", EMPTY, ids=str)
def test_an_empty_answer_without_a_refusal_is_a_failure(naughty: Naughty, choice: dict[str, Any]) -> None:
    naughty.plan["q"] = [choice]
    with (
        client(naughty.url, max_retries=2) as asked,
        pytest.raises(RequestFailed, match="an empty answer") as caught,
    ):
        asked.ask(CHAT)
    assert len(naughty.seen) == 1, "greedy decoding would say the same again"
    thought = next((name for name in ("reasoning_content", "reasoning") if name in choice["message"]), "")
    assert thought in caught.value.what
    assert ("token limit" in caught.value.hint) == (choice.get("finish_reason") == "length")


@pytest.mark.parametrize(
    "choice",
    [
        {"message": {"role": "assistant", "content": None, "refusal": "I can't"}},
        {"message": {"role": "assistant", "content": ""}, "finish_reason": "content_filter"},
        {"message": {"role": "assistant", "content": [{"type": "refusal", "refusal": "no"}]}},
    ],
)
def test_a_refusal_is_an_answer(naughty: Naughty, choice: dict[str, Any]) -> None:
    naughty.plan["q"] = [choice]
    with client(naughty.url) as asked:
        reply = asked.ask(CHAT)
    assert reply.text == ""
    assert score(rows()[0], reply.answer()).outcome == "unparseable"


@pytest.mark.parametrize("choice", [{"finish_reason": None}, "missing"])
def test_an_answer_without_finish_reason_is_taken(naughty: Naughty, choice: Any) -> None:
    missing = json.dumps({"choices": [{"message": {"content": "yes"}}]}).encode()
    naughty.plan["q"] = [missing if choice == "missing" else choice]
    with client(naughty.url) as asked:
        reply = asked.ask(CHAT)
    assert (reply.text, reply.finish_reason, reply.answer().finish_reason) == ("yes", "unknown", "stop")


def test_content_in_parts_is_text(naughty: Naughty) -> None:
    parts = [
        {"type": "thinking", "thinking": "hm"},
        {"type": "text", "text": "y"},
        {"type": "text", "text": "es"},
    ]
    naughty.plan["q"] = [{"message": {"content": parts}}]
    with client(naughty.url) as asked:
        assert asked.ask(CHAT).text == "yes"


ERRORS_OF_200 = [
    b'{"error": {"message": "model is loading", "type": "unavailable"}}',
    b'{"error": "model is loading"}',
    b'{"object": "error", "message": "model is loading", "code": 503}',
    b"<html><body>model is loading</body></html>",
    b"model is loading",
]


PARTIAL = [
    {"choices": [{"message": {"content": "par"}, "finish_reason": reason}]} for reason in ("error", "abort")
]
BESIDE = {
    "error": {"message": "CUDA OOM"},
    "choices": [{"message": {"content": "par"}, "finish_reason": "stop"}],
}


@pytest.mark.parametrize(
    "body",
    [*ERRORS_OF_200, b"", b"null", b"[]", b'{"choices": null}', b"[" * 100_000]
    + [json.dumps(value).encode() for value in (*PARTIAL, BESIDE)],
)
def test_a_200_without_an_answer_is_tried_again(naughty: Naughty, body: bytes) -> None:
    naughty.plan["q"] = [body, body]
    with client(naughty.url, max_retries=2) as asked:
        reply = asked.ask(CHAT)
    assert (reply.text, reply.retries, len(naughty.seen)) == ("yes", 2, 3)


@pytest.mark.parametrize("body", ERRORS_OF_200)
def test_a_200_that_stays_an_error_quotes_it(naughty: Naughty, body: bytes) -> None:
    naughty.plan["q"] = ["503", body, body, body]
    with (
        client(naughty.url, max_retries=2) as asked,
        pytest.raises(RequestFailed, match=r"model is loading.*tried 3 times") as caught,
    ):
        asked.ask(CHAT)
    assert len(naughty.seen) == 3, "both kinds of retries count"
    assert caught.value.retryable


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        ("Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead.",
         "token_limit to max_completion_tokens"),
        ("Unrecognized request argument supplied: max_completion_tokens", "token_limit to max_tokens"),
        ("Unsupported value: 'temperature' does not support 0 with this model.", "temperature to null"),
        ("max_tokens is too large: this model's maximum context length is 64 tokens", "base_url"),
    ],
)  # fmt: skip
def test_a_refused_field_quotes_the_server_and_names_the_param(
    naughty: Naughty, words: str, hint: str
) -> None:
    naughty.plan["q"] = [(400, json.dumps({"error": {"message": words, "code": None}}).encode())]
    with client(naughty.url) as asked, pytest.raises(RequestFailed) as caught:
        asked.ask(CHAT)
    assert words in caught.value.what
    assert hint in caught.value.hint


def test_the_words_of_a_list_of_errors_are_quoted(naughty: Naughty) -> None:
    detail = [{"loc": ["body", "max_tokens"], "msg": "extra fields not permitted"}]
    naughty.plan["q"] = [(422, json.dumps({"detail": detail}).encode())]
    with client(naughty.url) as asked, pytest.raises(RequestFailed) as caught:
        asked.ask(CHAT)
    assert "max_tokens extra fields not permitted" in caught.value.what
    assert "max_completion_tokens" in caught.value.hint


PROXIES = (
    "HTTP_PROXY",
    "http_proxy",
    "HTTPS_PROXY",
    "https_proxy",
    "ALL_PROXY",
    "all_proxy",
    "NO_PROXY",
    "no_proxy",
)


@pytest.fixture
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in PROXIES:
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


@pytest.mark.parametrize("name", ["HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"])
@pytest.mark.parametrize("proxy", ["http://127.0.0.1:1", "socks5://127.0.0.1:1", "nonsense://x"])
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_a_server_on_this_machine_is_asked_directly(
    naughty: Naughty, no_proxy: pytest.MonkeyPatch, name: str, proxy: str, host: str
) -> None:
    no_proxy.setenv(name, proxy)
    with client(naughty.url.replace("127.0.0.1", host)) as asked:
        assert asked.ask(CHAT).text == "yes"


@pytest.mark.parametrize("scheme", ["http://", ""])
def test_a_proxy_that_fails_is_named_without_its_password(no_proxy: pytest.MonkeyPatch, scheme: str) -> None:
    no_proxy.setenv("HTTP_PROXY", f"{scheme}me:secret@127.0.0.1:{free_port()}")
    with (
        client("http://shop.invalid/v1") as asked,
        pytest.raises(
            RequestFailed, match=r"shop.invalid does not answer through HTTP_PROXY=(http://)?127.0.0.1:\d+"
        ) as caught,
    ):
        asked.ask(CHAT)
    assert "secret" not in f"{caught.value.what}{caught.value.hint}"
    assert "me:" not in caught.value.what
    assert "NO_PROXY" in caught.value.hint


def test_a_proxy_is_used_for_another_machine(naughty: Naughty, no_proxy: pytest.MonkeyPatch) -> None:
    """The naughty server as proxy: it is asked for the whole URL, and refuses."""
    no_proxy.setenv("http_proxy", naughty.url.removesuffix("/v1"))
    with client("http://shop.invalid/v1") as asked, pytest.raises(RequestFailed):
        asked.ask(CHAT)
    no_proxy.setenv("NO_PROXY", "shop.invalid")
    with (
        client("http://shop.invalid/v1") as asked,
        pytest.raises(RequestFailed, match="does not answer \\(") as caught,
    ):
        asked.ask(CHAT)
    assert caught.value.hint == "start the server"


def test_the_proxy_without_its_package_is_the_one_named(no_proxy: pytest.MonkeyPatch) -> None:
    no_proxy.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    no_proxy.setenv("ALL_PROXY", "socks5://127.0.0.1:9")
    with pytest.raises(UserError, match=r"ALL_PROXY=socks5://127.0.0.1:9 cannot be used: .*SOCKS"):
        client("https://shop.invalid/v1")


def test_certificates_of_ones_own_are_loaded_without_a_proxy(
    no_proxy: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    no_proxy.setenv("SSL_CERT_FILE", str(tmp_path / "none.pem"))
    with pytest.raises(UserError, match=r"none\.pem"):
        client("https://shop.invalid/v1")


@pytest.mark.parametrize(
    ("proxy", "words"),
    [
        ("socks5://127.0.0.1:9", "SOCKS"),
        ("nonsense://x", "scheme"),
        ("http://host:port", "port"),
    ],
)
def test_a_proxy_that_cannot_be_used_is_one_line(
    no_proxy: pytest.MonkeyPatch, proxy: str, words: str
) -> None:
    no_proxy.setenv("ALL_PROXY", proxy)
    with pytest.raises(UserError, match=words) as caught:
        client("http://shop.invalid/v1")
    assert "ALL_PROXY" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300
