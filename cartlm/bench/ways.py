"""What a query costs by each way of decoding one GGUF file: `make bench-decoding`.

All ways answer the same sessions: a catalog and several messages about it, with the same threads. The first message of a
session is cold, the others are warm: who keeps prefixes has read the catalog already. Ways take turns at every session,
in random order, so that slow drifts of the machine reach all of them alike.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, median
from typing import Any

from cartlm.bench.aggregate import with_interval
from cartlm.task.intent import ACTIONS
from cartlm.task.rows import Row

LIBRARY, SERVER, FREE = "create_completion", "llama_server", "free"
JUMP, DRAFT, ACCEPTED, FLOOR = "jump_forward", "draft", "draft_accepted", "floor"
RIVALS = (LIBRARY, SERVER, FREE)
"""What the ways are compared with: two that read JSON as users do today, and our engine without constraints."""


@dataclass(frozen=True)
class Session:
    """A catalog, and rows whose products are its lines; each row keeps its own message and label."""

    catalog: tuple[str, ...]
    rows: tuple[Row, ...]


@dataclass(frozen=True)
class Query:
    """One message of a session, tokenized; `most` new tokens are those of its label, EOS included."""

    catalog: tuple[str, ...]
    message: str
    ids: list[int]
    most: int


@dataclass(frozen=True)
class Took:
    """`seconds` of a whole query, tokenizing included; of the floor, of its forward pass alone.

    `passes`: forward passes of the model, `exact`: whether the intent is that of jump-forward alone; None where that is unknown.
    """

    seconds: float
    passes: int | None = None
    exact: bool | None = None


def sessions(rows: Sequence[Row], count: int, messages: int, seed: int) -> list[Session]:
    """`count` sessions of `messages` rows of one language each, the languages in turn.

    The catalog of a session is its rows' products. Fewer sessions come out where rows are too few.
    """
    rng = random.Random(f"sessions {seed}")
    languages = sorted({row.language for row in rows})
    queues = {language: [row for row in rows if row.language == language] for language in languages}
    for queue in queues.values():
        rng.shuffle(queue)
    made: list[Session] = []
    while len(made) < count and any(queues.values()):
        queue = queues[languages[len(made) % len(languages)]]
        taken: dict[str, Row] = {}
        while queue and len(taken) < messages:
            row = queue.pop()
            taken.setdefault(row.intent.product, row)
        if len(taken) < messages:
            break
        catalog = list(taken)
        rng.shuffle(catalog)
        made.append(Session(tuple(catalog), tuple(taken.values())))
    return made


def schema(catalog: Sequence[str]) -> dict[str, Any]:
    """The JSON schema of the legal answers, as a user of llama-server would give it."""
    properties = {
        "action": {"enum": list(ACTIONS)},
        "product": {"enum": list(catalog)},
        "quantity": {"type": "integer", "minimum": 1},
    }
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def sections(took: Mapping[str, Sequence[Sequence[Took]]], seed: int) -> dict[str, dict[str, Any]]:
    """Figures of each way from its sessions.

    COLD is the first query of a session, WARM are the others: `COLD_ms_p50` is their median latency. `COLD_to_RIVAL` is their
    time over that of a rival on the same queries, with a 95 % bootstrap interval over sessions. Of warm queries, `passes` are
    the forward passes each and `one_pass` is the share that took one. `other_answers`: how many intents differ from
    jump-forward's.
    """
    found: dict[str, dict[str, Any]] = {}
    for name, of_way in took.items():
        section: dict[str, Any] = {}
        for temperature, part in (("cold", slice(0, 1)), ("warm", slice(1, None))):
            seconds = [[each.seconds for each in queries[part]] for queries in of_way]
            section[f"{temperature}_ms_p50"] = 1000 * median(second for each in seconds for second in each)
            for rival in RIVALS:
                if rival == name:
                    continue
                theirs = [[each.seconds for each in queries[part]] for queries in took[rival]]
                pairs = [(sum(a), sum(b)) for a, b in zip(seconds, theirs, strict=True)]
                section |= with_interval(f"{temperature}_to_{rival}", pairs, seed, _ratio)
        flat = [each for queries in of_way for each in queries]
        if passes := [each.passes for queries in of_way for each in queries[1:] if each.passes is not None]:
            section |= {
                "passes": fmean(passes),
                "one_pass": sum(count == 1 for count in passes) / len(passes),
            }
        if compared := [each.exact for each in flat if each.exact is not None]:
            section["other_answers"] = len(compared) - sum(compared)
        found[name] = section
    return found


def _ratio(pairs: Sequence[tuple[float, float]]) -> float:
    return sum(a for a, _ in pairs) / sum(b for _, b in pairs)
