"""Is any answer outside of its catalog, and does the prefix cache change one? Run by `make check-legal`, not by pytest.

python -m tests.benchmarks.check_legal --variant q2_k

Fuzzed requests: messages and catalogs of the test rows, hostile ones, and mutations of all. An answer is wrong here if it is no
intent, names no line of its catalog, or a quantity out of bounds; a refusal (too long, a special token) is counted. Then requests
interleaved over some catalogs, with a cache too small for all of them and without one. Exit code 1 for a single wrong or other answer.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import click
from tqdm import tqdm

import cartlm
from cartlm import command, params
from cartlm.serving.reader import Mode, Prediction, Reader, Unreadable
from cartlm.task import rows as row_files
from cartlm.task.intent import parse_intent
from cartlm.task.rows import Row
from tests import ROOT
from tests.fixtures.decoding import HARD, HOSTILE

SIGNS = 'añčß€🧨牛"\\{}[]:,\n\t 0123456789<|>\u200b\u202e'
SMALL_MIB = 1.0  # some catalogs of the embedded model


@command.command
@click.option("--variant", default="q2_k", show_default=True)
@click.option("--requests", default=20_000, show_default=True)
@click.option("--cached", default=2_000, show_default=True, help="requests of the check of the cache")
@click.option("--catalogs", default=50, show_default=True)
@click.option("--decoding", type=click.Choice(["constrained", "ensemble"]), default="constrained")
def main(variant: str, requests: int, cached: int, catalogs: int, decoding: Mode) -> int:
    """Print what was found."""
    rows = row_files.read(Path("data/test.jsonl"))
    bound = params.load(ROOT / "params.yaml").decoding.max_quantity
    found: Counter[str] = Counter()
    with cartlm.load(variant, decoding=decoding) as reader:
        for catalog, message in tqdm(fuzzed(rows, requests), total=requests, mininterval=5):
            found[outcome(reader, catalog, message, bound)] += 1
    for name, count in found.most_common():
        print(f"{count:6} {name}")
    other = differences(variant, interleaved(rows, cached, catalogs))
    print(f"{cached} requests over {catalogs} catalogs: {other} answered otherwise with the cache")
    return int(other > 0 or any(name.startswith("WRONG") for name in found))


def fuzzed(rows: Sequence[Row], count: int) -> Iterator[tuple[list[str], str]]:
    """Catalogs and messages, seeded."""
    rng = random.Random("fuzzed")
    for _ in range(count):
        row, other = rng.choice(rows), rng.choice(rows)
        catalogs: tuple[Sequence[str], ...] = (
            row.catalog,
            other.catalog,
            rng.sample(HARD, rng.randint(1, 30)),
            [],
        )
        catalog = [line for line in rng.choices(catalogs, (5, 2, 2, 0.05))[0] if line == line.strip()]
        if rng.random() < 0.1 and catalog:
            catalog[rng.randrange(len(catalog))] = noise(rng, 12)
        if rng.random() < 0.005:
            catalog = [f"{line} {number}" for number in range(60) for line in catalog or ["x"]]
        messages = (
            row.message,
            rng.choice(HOSTILE),
            noise(rng, 60),
            mutated(rng, row.message),
            row.message * 40,
        )
        yield catalog, rng.choices(messages, (3, 2, 2, 3, 0.1))[0]


def noise(rng: random.Random, longest: int) -> str:
    return "".join(rng.choices(SIGNS, k=rng.randint(1, longest)))


def mutated(rng: random.Random, text: str) -> str:
    """Some pieces of `text` replaced by signs, or by a hostile message."""
    for _ in range(rng.randint(1, 4)):
        begin = rng.randrange(len(text) + 1)
        piece = rng.choice((noise(rng, 4), rng.choice(HOSTILE), "9" * rng.randint(1, 30)))
        text = text[:begin] + piece + text[begin + rng.randint(0, 5) :]
    return text


def outcome(reader: Reader, catalog: list[str], message: str, bound: int) -> str:
    """What came of a request: `answered`, `refused: ...` or `WRONG: ...`."""
    try:
        intent = reader.predict(catalog, message).intent
    except Unreadable as error:
        return f"refused: {' '.join(str(error).split()[:2])} ..."
    if parse_intent(intent.canonical()) != intent:
        return f"WRONG: {intent} is no intent"
    if intent.product not in catalog or not 1 <= intent.quantity <= bound:
        return f"WRONG: {intent} of {catalog}"
    return "answered"


def interleaved(rows: Sequence[Row], count: int, catalogs: int) -> list[tuple[Sequence[str], str]]:
    """Requests over the catalogs of the first rows, in random order, with messages of all rows."""
    rng = random.Random("interleaved")
    return [(rng.choice(rows[:catalogs]).catalog, rng.choice(rows).message) for _ in range(count)]


def differences(variant: str, requests: Sequence[tuple[Sequence[str], str]]) -> int:
    """How many of the requests get another intent or confidence with a cache that holds some of the catalogs."""
    answers: list[list[Prediction]] = []
    for cache_mib in (SMALL_MIB, 0.0):
        with cartlm.load(variant, cache_mib=cache_mib) as reader:
            started = time.perf_counter()
            answers.append([reader.predict(*request) for request in requests])
            hits = reader.prefixes.hits if reader.prefixes else 0
            print(f"cache of {cache_mib} MiB: {hits} hits, {time.perf_counter() - started:.0f} s")
    pairs = zip(*answers, strict=True)
    return sum((a.intent, a.confidence) != (b.intent, b.confidence) for a, b in pairs)


if __name__ == "__main__":
    main()
