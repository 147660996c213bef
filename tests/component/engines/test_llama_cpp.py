"""The llama.cpp engine on a real GGUF file."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cartlm.engines import llama_cpp
from cartlm.engines.llama_cpp import LlamaCpp
from cartlm.errors import UserError
from cartlm.system import llama_cpp_build, llama_cpp_probe
from tests.fixtures.toy import TRAINED, toy_rows


@pytest.fixture(scope="module")
def engine(toy_gguf: Path) -> Iterator[LlamaCpp]:
    with llama_cpp.load(toy_gguf, threads=1) as loaded:
        yield loaded


def test_it_answers_what_the_model_learned(engine: LlamaCpp) -> None:
    builder = engine.prompt_builder("\n")
    for row in toy_rows()[:TRAINED]:
        ids = builder.prompt_ids(row.prompt)
        found = engine.answer(ids, 64)
        assert found.text == row.completion
        assert found.finish_reason == "stop"
        assert builder.eos_id not in found.token_ids
        assert list(found.token_ids) == builder.completion_ids(row.completion)[:-1]
        assert (found.prompt_tokens, found.decoded_tokens) == (len(ids), len(found.token_ids))
        assert found.forced_tokens == 0
        assert found.prefill_s > 0
        assert found.decode_s > 0


def test_the_cap_holds_and_is_told_from_stopping(engine: LlamaCpp) -> None:
    row = toy_rows()[0]
    ids = engine.prompt_builder("\n").prompt_ids(row.prompt)
    whole = engine.answer(ids, 64)
    for cap in (1, 5, len(whole.token_ids)):
        cut = engine.answer(ids, cap)
        assert cut.token_ids == whole.token_ids[:cap]
        assert cut.finish_reason == "length"
    assert engine.answer(ids, len(whole.token_ids) + 1).finish_reason == "stop"


def test_queries_do_not_touch_each_other(engine: LlamaCpp, toy_gguf: Path) -> None:
    builder = engine.prompt_builder("\n")
    first, second = (builder.prompt_ids(row.prompt) for row in toy_rows()[20:22])
    before = engine.answer(first, 64).token_ids
    engine.answer(second, 64)
    assert engine.answer(first, 64).token_ids == before
    with llama_cpp.load(toy_gguf, context_tokens=2048, threads=1) as other:
        assert other.answer(first, 64).token_ids == before


def test_replicas_answer_at_the_same_time_as_one_alone_does(toy_gguf: Path, engine: LlamaCpp) -> None:
    builder = engine.prompt_builder("\n")
    prompts = [builder.prompt_ids(row.prompt) for row in toy_rows()]
    wanted = [engine.answer(ids, 64).token_ids for ids in prompts]
    for threads in (1, 2):
        with llama_cpp.load(toy_gguf, threads=threads, replicas=3) as first:
            shares = [[(one, ids) for ids in prompts] for one in first.replicas]
            assert len({id(one) for one in first.replicas}) == 3
            with ThreadPoolExecutor(3) as pool:
                found = pool.map(lambda share: [one.answer(ids, 64).token_ids for one, ids in share], shares)
                assert list(found) == [wanted] * 3


def test_the_context_grows_with_the_need(toy_gguf: Path) -> None:
    row = toy_rows()[0]
    with llama_cpp.load(toy_gguf, context_tokens=16, threads=1) as engine:
        ids = engine.prompt_builder("\n").prompt_ids(row.prompt)
        assert engine.context_tokens == 256
        assert engine.answer(ids, 400).text == row.completion
        assert engine.context_tokens == 512
        assert engine.answer([ids[0], *ids[1:] * 20], 4).prompt_tokens > 1000


def test_the_ids_given_are_used_as_they_are(engine: LlamaCpp) -> None:
    ids = engine.prompt_builder("\n").prompt_ids(toy_rows()[0].prompt)
    assert ids.count(engine.bos_id) == 1
    assert engine.answer(ids[1:], 64).prompt_tokens == len(ids) - 1
    with pytest.raises(ValueError, match="at least 1"):
        engine.answer([], 64)
    with pytest.raises(ValueError, match="at least 1"):
        engine.answer(ids, 0)


@pytest.mark.parametrize(
    "text",
    [
        "add 2",
        " add",
        "  two ",
        "\nČaj\n\n",
        '{"action": "add"}',
        "ž中😀\u200d\tx\x00y",
        "</s><s>",
        "a\r\nb",
        "",
    ],
)
def test_tokenizing_and_decoding_keep_every_byte(engine: LlamaCpp, text: str) -> None:
    ids = engine.tokenize(text)
    assert engine.decode(ids) == text
    assert engine.bos_id not in ids
    assert engine.eos_id not in ids


def test_it_describes_itself(engine: LlamaCpp) -> None:
    found = engine.describe()
    assert found["name"] == "llama.cpp"
    assert str(found["version"]).startswith("llama-cpp-python 0.")
    assert found["kernel"] == llama_cpp_probe.cpu_variant() != "unknown"
    assert found["instructions"]
    assert found["threads"] == 1


def test_closing_twice_is_harmless(toy_gguf: Path) -> None:
    with llama_cpp.load(toy_gguf, threads=1) as engine, engine:
        pass


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("missing", "is missing"), ("folder", "does not load"), ("empty", "does not load"), ("html", "invalid magic"),
        ("header", "does not load"), ("cut", "not within the file bounds"), ("garbage", "does not load"),
        ("vocabulary", "does not load"),
    ],
)  # fmt: skip
def test_a_broken_file_is_one_clear_line(
    toy_gguf: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], name: str, said: str
) -> None:
    path = tmp_path / "model.gguf"
    whole = toy_gguf.read_bytes()
    contents = {
        "empty": b"",
        "html": b"<html>",
        "header": whole[:100],
        "cut": whole[:-1],
        "garbage": b"GGUF" * 99,
    }
    contents["vocabulary"] = llama_cpp_build.llama3_vocabulary().read_bytes() if name == "vocabulary" else b""
    if name == "folder":
        path.mkdir()
    elif name != "missing":
        path.write_bytes(contents[name])
    with pytest.raises(UserError) as caught:
        llama_cpp.load(path)
    assert said in caught.value.message
    assert str(path) in caught.value.message
    assert caught.value.hint
    printed = capfd.readouterr()
    assert printed.out == printed.err == ""
