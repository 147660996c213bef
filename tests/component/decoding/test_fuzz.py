"""Whatever is sent, the answer is legal or refused, and no cache changes it; at length in the night."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cartlm.baseline.reader import read
from cartlm.decoding.constrained import Constrained
from cartlm.decoding.llama_cpp_cache import LlamaCppCache
from cartlm.decoding.prefix_cache import PrefixCache
from cartlm.engines import llama_cpp
from cartlm.engines.llama_cpp import LlamaCpp
from tests import ROOT
from tests.benchmarks.check_decoding import check_fuzz, compare_caches, compare_drafts
from tests.fixtures.base_gguf import base_gguf
from tests.fixtures.baseline import WEIGHTS, generated, write_baseline
from tests.fixtures.fuzz import KINDS, Request, outcome, request

__all__ = ["base_gguf"]
DRAFT = partial(read, WEIGHTS)


@pytest.fixture(scope="module")
def toy(toy_gguf: Path) -> Iterator[LlamaCpp]:
    with llama_cpp.load(toy_gguf, threads=1) as loaded:
        yield loaded


@pytest.fixture
def cache(toy: LlamaCpp) -> Iterator[LlamaCppCache]:
    with LlamaCppCache(toy) as made:
        yield made


def test_hostile_requests_get_legal_answers_or_refusals(toy: LlamaCpp, cache: LlamaCppCache) -> None:
    found = check_fuzz(cache, toy.prompt_builder("\n"), toy.decode, DRAFT, 0.05, 400)
    assert sum(found["outcomes"].values()) == 400
    assert 360 < found["outcomes"]["legal"] < 400
    assert {name.split(":")[0] for name in found["kinds"]} == set(KINDS)
    assert 0 < found["hit_rate"] < 1
    assert found["slowest_cpu_s"] < 5  # 0.1 on an idle core
    assert found["peak_rss_mib"] - found["loaded_rss_mib"] < 128


def test_any_text_gets_a_legal_answer_or_a_refusal(toy: LlamaCpp, cache: LlamaCppCache) -> None:
    builder = toy.prompt_builder("\n")
    reader = Constrained(
        cache, builder, max_quantity=12, prefixes=PrefixCache(0.05), draft=DRAFT, max_tokens=300
    )
    text = st.text(st.characters(), max_size=40)  # half characters among them

    @settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])
    @given(st.lists(text, max_size=4), text)
    def answered(catalog: list[str], message: str) -> None:
        outcome(reader, builder, toy.decode, Request("any", catalog, message))

    answered()


def test_two_thousand_lines_get_a_legal_answer(toy: LlamaCpp, cache: LlamaCppCache) -> None:
    builder = toy.prompt_builder("\n")
    reader = Constrained(cache, builder, max_tokens=20_000)
    asked = Request("2,000 lines", [f"P{number}" for number in range(2000)], "output Gold")
    began = time.thread_time()
    assert outcome(reader, builder, toy.decode, asked)[0] == "legal"
    assert time.thread_time() - began < 30  # 1 on an idle core


def test_requests_depend_on_their_number_alone() -> None:
    once = [request(number) for number in range(300)]
    assert once[7:] == [request(number) for number in range(7, 300)]
    assert len({(*one.catalog, one.message) for one in once}) > 280


def test_evicted_catalogs_change_no_answer(toy: LlamaCpp, cache: LlamaCppCache) -> None:
    found = compare_caches(cache, toy.prompt_builder("\n"), 0.4, 60, catalogs=12)
    assert found["changed"] == 0
    assert found["whole_changed"] <= 1
    assert found["read_again"] > 5
    assert 0.2 < found["hit_rate"] < 0.8
    assert 1 < found["held"] < found["catalogs"]


def test_what_drafts_save_is_counted(toy: LlamaCpp, cache: LlamaCppCache) -> None:
    rows = generated("check drafts", 12)
    found, differences = compare_drafts(cache, toy.prompt_builder("\n"), DRAFT, rows)
    assert found["all"]["n"] == 12 == sum(found[name]["n"] for name in ("english", "croatian", "spanish"))
    assert differences == []
    assert 0 < found["all"]["accepted"] < 1
    assert found["all"]["passes"] < found["all"]["passes_jump"] < found["all"]["passes_by_token"]


def checked(what: str, model: Path, times: int, folder: Path) -> dict[str, object]:
    """What the command prints, run in a process of its own."""
    write_baseline(folder / "baseline.json")
    words = [what, str(model), "--times", str(times), "--reader", str(folder / "baseline.json")]
    done = subprocess.run(
        [sys.executable, "-m", "tests.benchmarks.check_decoding", *words],
        capture_output=True, text=True, cwd=ROOT,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    return dict(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.nightly  # 400 of them above
@pytest.mark.timeout(3600)
def test_twenty_thousand_hostile_requests(base_gguf: Path, tmp_path: Path) -> None:
    found = checked("fuzz", base_gguf, 20_000, tmp_path)
    assert isinstance(found["outcomes"], dict)
    assert sum(found["outcomes"].values()) == 20_000
    assert found["outcomes"]["legal"] > 19_000
    assert float(str(found["slowest_cpu_s"])) < 30
    assert float(str(found["peak_rss_mib"])) < 1024


@pytest.mark.nightly  # 60 of them above
@pytest.mark.timeout(3600)
def test_two_thousand_interleaved_requests(base_gguf: Path, tmp_path: Path) -> None:
    found = checked("cache", base_gguf, 2000, tmp_path)
    assert (found["requests"], found["changed"], found["catalogs"]) == (2000, 0, 50)
    assert float(str(found["hit_rate"])) < 0.8
