"""Do answers within the catalog keep their promises on a model of yours? Not run by pytest; its parts are (test_fuzz.py).

python -m tests.benchmarks.check_decoding fuzz models/q4_k_m/model.gguf --times 20000
python -m tests.benchmarks.check_decoding cache models/q4_k_m/model.gguf --times 2000
python -m tests.benchmarks.check_decoding drafts models/q4_k_m/model.gguf --times 1000

fuzz: hostile requests, each answered legally or refused for a reason that holds. cache: requests over 50 catalogs of which
the prefix cache holds a few; hit or miss, answers and probabilities are equal to the last bit. drafts: the first test rows
with the baseline's drafts and without; how often they agree, and the forward passes. Exit code 1 where fuzz or cache
finds a fault. --first goes on where another run ended.
"""

from __future__ import annotations

import random
import resource
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import click
import numpy as np
from tqdm import tqdm

from cartlm import command
from cartlm.baseline import reader as baseline
from cartlm.decoding import jump_forward
from cartlm.decoding.constrained import Constrained, Reply
from cartlm.decoding.llama_cpp_cache import LlamaCppCache
from cartlm.decoding.prefix_cache import PrefixCache
from cartlm.engines import llama_cpp
from cartlm.task import rows as task_rows
from cartlm.task.intent import Intent
from cartlm.task.prompt import PromptBuilder
from cartlm.task.rows import Row
from tests.fixtures.baseline import generated
from tests.fixtures.fuzz import fuzz

MAX_TOKENS = 4096
CATALOGS = 50
KINDS = ("phrasing", "style", "quantity_form", "twins")
Draft = Callable[[Sequence[str], str], Intent]


def identity(reply: Reply) -> tuple[object, ...]:
    """What must not depend on a cache: the answer, and its probability to the last bit."""
    return (reply.intent, reply.decoded.token_ids, reply.decoded.probability)


def compare_caches(
    cache: LlamaCppCache,
    builder: PromptBuilder,
    mib: float,
    times: int,
    first: int = 0,
    catalogs: int = CATALOGS,
) -> dict[str, Any]:
    """Interleaved requests, a few catalogs often and many seldom, with a prefix cache of `mib` and with one that keeps nothing.

    `changed`: requests whose answer or probability differs. `read_again`: misses of a catalog that was kept before. Beside
    them, without any prefix cache, prompts are read in one pass, which rounds otherwise: `whole_changed` counts other
    answers, `whole_gap` is the largest difference of probability.
    """
    rows = generated("check decoding", 300)
    often = [1 / (place + 5) for place in range(catalogs)]
    keep, none, whole = (
        Constrained(cache, builder, prefixes=PrefixCache(size) if size is not None else None)
        for size in (mib, 0, None)
    )
    assert keep.prefixes is not None
    found: dict[str, Any] = {
        "requests": times,
        "changed": 0,
        "read_again": 0,
        "whole_changed": 0,
        "whole_gap": 0.0,
    }
    kept: set[int] = set()
    for number in tqdm(range(first, first + times), "cache", disable=None):
        chance = random.Random(f"cache {number}")
        (place,) = chance.choices(range(catalogs), often)
        asked = (rows[place].catalog, chance.choice(rows).message)
        reply, miss, alone = keep.answer(*asked), none.answer(*asked), whole.answer(*asked)
        found["changed"] += identity(reply) != identity(miss)
        found["read_again"] += not reply.cached_tokens and place in kept
        found["whole_changed"] += reply.intent != alone.intent
        found["whole_gap"] = max(
            found["whole_gap"], abs(reply.decoded.probability - alone.decoded.probability)
        )
        kept.add(place)
    hits = {"hits": keep.prefixes.hits, "misses": keep.prefixes.misses, "catalogs": len(kept)}
    return found | hits | {"held": len(keep.prefixes), "hit_rate": keep.prefixes.hit_rate}


@contextmanager
def decisions() -> Iterator[list[tuple[int, float]]]:
    """Each decision as it is made: the token, and by how much its logit exceeds the next legal one's."""
    made: list[tuple[int, float]] = []
    decide = jump_forward._Walk.decide

    def record(walk: Any, choice: Any, token: int) -> None:
        made.append((token, float(np.sort(choice._below)[1])))
        decide(walk, choice, token)

    with patch.object(jump_forward._Walk, "decide", record):
        yield made


def compare_drafts(
    cache: LlamaCppCache, builder: PromptBuilder, draft: Draft, rows: Sequence[Row]
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Rows with and without a draft: figures of all and by language and kind of message, and the answers that differ.

    `accepted`: share of the drafted decisions, `right`: of rows whose whole draft the model takes, `one_pass` of those that
    took one. Passes a query: `passes_by_token` of decoding token by token (from the answer's length), `passes_jump`,
    `passes`. A difference has the gap to the second legal logit, both ways, at the first decision that differs.
    """
    without, drafted = Constrained(cache, builder), Constrained(cache, builder, draft=draft)
    groups: dict[str, list[dict[str, float]]] = defaultdict(list)
    differences = []
    for row in tqdm(rows, "drafts", disable=None):
        with decisions() as first:
            alone = without.answer(row.catalog, row.message)
        with decisions() as second:
            reply = drafted.answer(row.catalog, row.message)
        one = {
            "accepted": reply.decoded.accepted, "drafted": reply.decoded.drafted, "right": reply.draft == reply.intent,
            "one_pass": reply.decoded.forward_passes == 1, "passes": reply.decoded.forward_passes,
            "passes_jump": alone.decoded.forward_passes, "passes_by_token": len(alone.decoded.token_ids) + 1,
            "changed": reply.intent != alone.intent,
            "probability_gap": abs(reply.decoded.probability - alone.decoded.probability),
        }  # fmt: skip
        for name in ("all", row.language, *_kinds(row)):
            groups[name].append(one)
        if reply.intent != alone.intent:
            at = next(place for place, (a, b) in enumerate(zip(first, second, strict=False)) if a[0] != b[0])
            answers = {"alone": alone.intent.canonical(), "drafted": reply.intent.canonical()}
            gaps = {"gap_alone": first[at][1], "gap_drafted": second[at][1]}
            differences.append({"id": row.id, **answers, **gaps})
    return {name: _means(each) for name, each in sorted(groups.items())}, differences


def _kinds(row: Row) -> Iterator[str]:
    yield from (f"{kind} {row.tags[kind]}" for kind in KINDS if kind in row.tags)
    yield "clean" if row.tags.get("noise") == "clean" else "noisy"


def _means(each: list[dict[str, float]]) -> dict[str, float]:
    drafted = sum(one["drafted"] for one in each)
    names = ("right", "one_pass", "passes_by_token", "passes_jump", "passes")
    means = {name: round(sum(one[name] for one in each) / len(each), 4) for name in names}
    return {
        "n": len(each), "changed": sum(one["changed"] for one in each),
        "accepted": round(sum(one["accepted"] for one in each) / drafted, 4) if drafted else 0.0,
        **means, "probability_gap": max(one["probability_gap"] for one in each),
    }  # fmt: skip


def check_fuzz(
    cache: LlamaCppCache, builder: PromptBuilder, decode: Callable[[list[int]], str], draft: Draft | None,
    mib: float, times: int, first: int = 0,
) -> dict[str, Any]:  # fmt: skip
    """Requests `first` and on: outcomes, forward passes, the slowest one's CPU seconds, memory. Raises AssertionError."""
    reader = Constrained(cache, builder, prefixes=PrefixCache(mib), draft=draft, max_tokens=MAX_TOKENS)
    before = peak_rss_mib()
    tally = fuzz(reader, builder, decode, tqdm(range(first, first + times), "fuzz", disable=None))
    assert reader.prefixes is not None
    return {
        "requests": times, "first": first, "outcomes": dict(tally.outcomes), "kinds": dict(sorted(tally.kinds.items())),
        "forward_passes": tally.passes, "hit_rate": reader.prefixes.hit_rate, "slowest_cpu_s": tally.slowest_s,
        "slowest": tally.slowest, "loaded_rss_mib": before, "peak_rss_mib": peak_rss_mib(),
    }  # fmt: skip


def peak_rss_mib() -> float:
    """The most main memory that this process has had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


@command.command
@click.argument("what", type=click.Choice(["fuzz", "cache", "drafts"]))
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--times", type=click.IntRange(min=1), default=2000)
@click.option("--first", type=click.IntRange(min=0), default=0, help="The first request's or row's number.")
@click.option("--mib", default=8.0, help="The prefix cache's bound.")
@click.option("--reader", type=click.Path(path_type=Path), default=Path("models/baseline/model.json"))
@click.option("--rows", type=click.Path(path_type=Path), default=Path("data/test.jsonl"), help="For drafts.")
def main(what: str, model: Path, times: int, first: int, mib: float, reader: Path, rows: Path) -> int:
    """Print what was found as one JSON line."""
    result: dict[str, Any]
    with llama_cpp.load(model, threads=1) as engine, LlamaCppCache(engine) as cache:
        builder = engine.prompt_builder("\n")
        if what == "cache":
            result = compare_caches(cache, builder, mib, times, first)
            command.done(result)
            return int(result["changed"] > 0)
        draft = partial(baseline.read, baseline.load(reader))
        if what == "fuzz":
            command.done(check_fuzz(cache, builder, engine.decode, draft, mib, times, first))
        else:
            groups, differences = compare_drafts(
                cache, builder, draft, task_rows.read(rows)[first : first + times]
            )
            command.done({"groups": groups, "differences": differences})
    return 0


if __name__ == "__main__":
    main()
