"""Rows whose label is ours and whose words are a model's: `data.source: openai`.

The label is sampled as in the offline source; a model behind the OpenAI API words it (cartlm/data/metaprompt.py); what it
wrote is checked (cartlm/data/filters.py), noise comes on top, and a refused label is sampled and asked for anew. All
that is asked depends on params and on answers that came before, so stored answers give the same bytes again.
"""

from __future__ import annotations

import hashlib
import json
import random
import re
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from cartlm.data import filters, metaprompt, near_duplicates, noise, rules
from cartlm.data.config import Data, Worded
from cartlm.data.lexicon import Line
from cartlm.data.metaprompt import GenerationPrompt, Label
from cartlm.data.sampling import balanced_subset
from cartlm.engines.openai import CUT, Reply
from cartlm.engines.remote import Request, sampling
from cartlm.errors import UserError
from cartlm.task.intent import ACTIONS, Intent
from cartlm.task.rows import Row, make
from cartlm.text import help_to_read

Ask = Callable[[Sequence[Request], str], Mapping[str, Reply]]
"""The answers to requests, by key; the text names what they are for."""
PROMPTS_AT_ONCE = 8  # generation prompts of one answer, which then differ from each other
ATTEMPTS = 8  # in a row that bring nothing new, each with other labels, before a run gives up


@dataclass
class Report:
    """What became of the answers."""

    refused: Counter[str] = field(default_factory=Counter)
    worded: int = 0  # messages asked for

    def metrics(self, replies: Mapping[str, Reply], settings: Worded) -> dict[str, int | float | str]:
        """The `wording` section of metrics/data.json: refused messages by reason, tokens, and cost at list price."""
        found: dict[str, int | float | str] = {
            "model": settings.model,
            "requests": len(replies),
            "messages": self.worded,
            **{
                f"refused_{re.sub(r'[^a-z0-9]+', '_', why.lower())}": n
                for why, n in sorted(self.refused.items())
            },
        }
        tokens = {}
        for name in ("prompt_tokens", "completion_tokens"):
            counts = [getattr(reply, name) for reply in replies.values()]
            if None not in counts:
                tokens[name] = sum(counts)
        if settings.input_price is not None and settings.output_price is not None and len(tokens) == 2:
            cost = (
                tokens["prompt_tokens"] * settings.input_price
                + tokens["completion_tokens"] * settings.output_price
            )
            found |= {"cost_usd": cost / 1e6, "price_source": settings.price_source or "unknown"}
        return found | tokens


@dataclass(frozen=True)
class Slot:
    """A row to be made: what is fixed of it."""

    index: int
    language: str
    action: str
    novel: bool


@dataclass(frozen=True)
class Wanted:
    """A sampled label for a slot."""

    slot: Slot
    line: Line
    catalog: list[Line]
    label: Label


def _whole(reply: Reply) -> str:
    """The text of an answer. Raises ValueError if it was cut."""
    if reply.finish_reason.lower() in CUT:
        raise ValueError("cut at max_tokens")
    return reply.text


class _Unasked(Exception):
    """Requests that a dry run would have to send."""

    def __init__(self, requests: Sequence[Request]) -> None:
        self.requests = list(requests)
        super().__init__(f"{len(requests)} requests")


class Maker:
    """Makes the splits; `ask` gets the answers. `report` and `replies` tell what it took."""

    def __init__(self, params: Data, ask: Ask) -> None:
        self.params, self._given, self._ask_server = params, params.openai, ask
        self.report, self.replies = Report(), dict[str, Reply]()
        self._unread: list[str] = []  # answers of the attempt under way that are not the JSON asked for
        given = self._given
        self._settings = {
            "model": given.model,
            "structured": given.structured,
            "sampling": sampling(given.temperature, given.token_limit, given.max_tokens),
        }

    def splits(self) -> dict[str, list[Row]]:
        """All splits, apart from each other as in the offline source. Raises UserError if labels stay refused."""
        params = self.params
        if (
            params.calibration > params.train
        ):  # found out before anything is paid for, as are missing packages
            raise UserError(
                f"data.calibration={params.calibration} is more than data.train={params.train}",
                "edit params.yaml",
            )
        filters.detector(tuple(sorted(params.languages)))
        prompts = self.prompts()
        test = self.rows("test", params.test, round(params.test * params.novel), prompts, [])
        validation = self.rows("validation", params.validation, 0, prompts, test)
        train = self.rows("train", params.train, 0, prompts, [*test, *validation])
        calibration = balanced_subset(train, params.calibration, self._rng("calibration"))
        return {"train": train, "validation": validation, "test": test, "calibration": calibration}

    def prompts(self) -> list[GenerationPrompt]:
        """The first level: `data.openai.prompts` generation prompts a language, and a quarter as many for `novel`."""
        wanted: list[tuple[str, bool, int, int]] = []
        for language in self.params.languages:
            for novel in (False, True):
                left = -(-self._given.prompts // 4) if novel else self._given.prompts
                if novel and self.params.novel == 0:
                    continue
                for chunk in range(-(-left // PROMPTS_AT_ONCE)):
                    wanted.append(
                        (language, novel, chunk, min(PROMPTS_AT_ONCE, left - chunk * PROMPTS_AT_ONCE))
                    )
        made: dict[tuple[str, bool, int], list[str]] = {}
        for attempt in range(ATTEMPTS):
            asked = [
                (one, self._request(f"prompts {one[0]} {one[2]}", metaprompt.prompts_body(self._settings, one[0], one[3], one[1]), (*one, attempt)))
                for one in wanted
                if one[:3] not in made
            ]  # fmt: skip
            if not asked:
                break
            replies = self._ask([request for _, request in asked], "generation prompts")
            self._unread.clear()
            for one, request in asked:
                try:
                    made[one[:3]] = metaprompt.read_prompts(_whole(replies[request.key]), one[3])
                except ValueError as error:
                    self.report.refused[f"prompts {error}"] += 1
                    self._unread.append(replies[request.key].text)
            self._tell("generation prompts", len(asked))
        else:
            if len(made) < len(wanted):
                raise UserError(
                    f"{self._given.model} gave no usable generation prompts in {ATTEMPTS} attempts: {self._reasons()}",
                    self._hint(),
                )
        return [
            GenerationPrompt(f"{language}/{'novel' if novel else 'prompt'}-{chunk * PROMPTS_AT_ONCE + i}", language, novel, text)
            for (language, novel, chunk), texts in made.items()
            for i, text in enumerate(texts)
        ]  # fmt: skip

    def rows(
        self, name: str, count: int, novel: int, prompts: Sequence[GenerationPrompt], others: Sequence[Row]
    ) -> list[Row]:
        """`count` rows, none of them close to one of `others` or said twice; the first `novel` slots are novel."""
        slots = self.slots(count, novel)
        done: dict[int, Row] = {}
        attempt = vain = 0
        while len(done) < count and vain < ATTEMPTS:
            groups = self.groups(name, attempt, [slot for slot in slots if slot.index not in done], prompts)
            replies = self._ask([request for _, _, request in groups], f"{name}, attempt {attempt + 1}")
            self._unread.clear()
            fresh = [
                row
                for prompt, wanted, request in groups
                for row in self.read(name, attempt, prompt, wanted, replies[request.key])
            ]
            self._tell(name, len(groups))
            before = len(done)
            self._keep(fresh, done, others)
            attempt, vain = attempt + 1, 0 if len(done) > before else vain + 1
        missing = count - len(done)
        if missing:
            raise UserError(
                f"{name}: {missing} of {count} labels stay refused after {attempt} attempts: {self._reasons()}",
                self._hint(),
            )
        made = [done[index] for index in range(count)]
        self._rng(f"{name}/order").shuffle(made)
        return [replace(row, id=f"{name}-{index:05d}") for index, row in enumerate(made)]

    def slots(self, count: int, novel: int) -> list[Slot]:
        """Languages and actions in turn, so that both stay balanced; the first `novel` ones are novel."""
        languages = self.params.languages
        return [
            Slot(i, languages[i % len(languages)], ACTIONS[(i // len(languages)) % len(ACTIONS)], i < novel)
            for i in range(count)
        ]

    def groups(
        self, name: str, attempt: int, pending: Sequence[Slot], prompts: Sequence[GenerationPrompt]
    ) -> list[tuple[GenerationPrompt, list[Wanted], Request]]:
        """Up to `data.openai.examples` labels of one language in a request, each with a prompt drawn for it."""
        found = []
        kinds = dict.fromkeys((slot.language, slot.novel) for slot in pending)
        for language, novel in kinds:
            slots = [slot for slot in pending if (slot.language, slot.novel) == (language, novel)]
            choices = [prompt for prompt in prompts if (prompt.language, prompt.novel) == (language, novel)]
            for start in range(0, len(slots), self._given.examples):
                part = slots[start : start + self._given.examples]
                rng = self._rng(f"{name}/{attempt}/{part[0].index}")
                prompt = choices[
                    (attempt + start // self._given.examples) % len(choices)
                ]  # each as often as the others
                wanted = [self.sample(slot, rng) for slot in part]
                body = metaprompt.wording_body(self._settings, prompt, [one.label for one in wanted])
                where = f"{name} {part[0].index}"
                found.append((prompt, wanted, self._request(where, body, (name, attempt, part[0].index))))
        return found

    def sample(self, slot: Slot, rng: random.Random) -> Wanted:
        """A label: product, catalog and quantity as in the offline source."""
        line = rules.sample_line(rng.choice(rules.products(slot.language, slot.novel)), rng)
        catalog = rules.sample_catalog(line, self.params.catalog, rng)
        intent = Intent(slot.action, line.text, rules.sample_quantity(rng))
        asked = self._given.noise == "asked" and rng.random() >= self.params.noise.clean
        kind = rng.choice(sorted(metaprompt.NOISE)) if asked else ""
        return Wanted(slot, line, catalog, Label([one.text for one in catalog], intent, kind))

    def read(
        self, name: str, attempt: int, prompt: GenerationPrompt, wanted: Sequence[Wanted], reply: Reply
    ) -> list[Row]:
        """The sound messages of an answer as rows, noise added; the others are counted by reason."""
        self.report.worded += len(wanted)
        try:
            messages = metaprompt.read_messages(_whole(reply), len(wanted))
        except ValueError as error:
            self.report.refused[str(error)] += len(wanted)
            self._unread.append(reply.text)
            return []
        made = []
        for one, message in zip(wanted, messages, strict=True):
            slot, label = one.slot, one.label
            why = filters.reason(
                message, one.line, one.catalog, label.intent.quantity, slot.language, self.params.languages
            )
            if why:
                self.report.refused[why] += 1
                continue
            done = [label.noise] if label.noise else []
            if self._given.noise == "ours":
                rng = self._rng(f"{name}/{attempt}/{slot.index}/noise")
                message, done = noise.apply(message, slot.language, self.params.noise, rng)
            tags: dict[str, str | bool | int] = {
                "noise": "+".join(done) or "clean",
                "template": prompt.id,
                "novel": slot.novel,
                "twins": rules.names(one.line, one.catalog).twin,
                "catalog_lines": len(one.catalog),
            }
            made.append(
                make(f"{slot.index}", slot.language, list(label.catalog), message, label.intent, tags)
            )
        return made

    def _keep(self, fresh: Sequence[Row], done: dict[int, Row], others: Sequence[Row]) -> None:
        """Add the fresh rows that are no near-duplicate of another split, and not said before in this one."""
        limit = self.params.gates.near_duplicate
        scores = [0.0] * len(fresh)
        if fresh and others:
            scores = near_duplicates.nearest(fresh, others, limit)[0].tolist()
        said = {near_duplicates.comparable(row) for row in done.values()}
        for row, score in zip(fresh, scores, strict=True):
            text = near_duplicates.comparable(row)
            if score >= limit:
                self.report.refused["near-duplicate"] += 1
            elif text in said:
                self.report.refused["said before"] += 1
            else:
                said.add(text)
                done[int(row.id)] = row

    def _request(self, where: str, body: dict[str, Any], index: Sequence[Any]) -> Request:
        """A request under the key of server, body and index: the same words asked twice are two requests."""
        made_of = json.dumps([self._given.base_url, body, list(index)], sort_keys=True)
        return Request(where, body, hashlib.sha256(made_of.encode()).hexdigest()[:16])

    def _ask(self, requests: Sequence[Request], what: str) -> Mapping[str, Reply]:
        found = self._ask_server(requests, what)
        self.replies |= found
        return found

    def _tell(self, name: str, asked: int) -> None:
        if line := help_to_read(self._unread, asked, self._hint()):
            print(f"{name}: {line}", file=sys.stderr)

    def _rng(self, name: str) -> random.Random:
        return random.Random(f"{self.params.seed}/openai/{name}")

    def _hint(self) -> str:
        if self.report.refused["cut at max_tokens"] or self.report.refused["prompts cut at max_tokens"]:
            return "raise data.openai.max_tokens in params.yaml"
        return "set data.openai.model to another model, or data.openai.structured to true, in params.yaml"

    def _reasons(self) -> str:
        return ", ".join(f"{n} {why}" for why, n in self.report.refused.most_common(5))


@dataclass(frozen=True)
class Estimate:
    """What a run would ask for anew, before labels that are refused and asked for again. Tokens are estimated."""

    requests: int
    prompt_tokens: int
    completion_tokens: int
    cost_usd: float | None  # at the prices of params.yaml; None where none is given

    def words(self) -> str:
        cost = "no price is given" if self.cost_usd is None else f"about {self.cost_usd:.2f} US dollars"
        return (
            f"{self.requests:,} new requests of about {self.prompt_tokens:,} prompt and {self.completion_tokens:,} "
            f"completion tokens ({cost}); refused messages are asked for again on top"
        )


CHARS_A_TOKEN = 3.5  # of such requests, English and Croatian mixed; a guess, servers count for themselves
PROMPT_TOKENS, MESSAGE_TOKENS = 160, 35  # of a generation prompt, of a message, with the JSON around it


def estimate(params: Data, kept: Mapping[str, Reply]) -> Estimate:
    """What is missing of the first attempt of every label, given the answers in `kept`. Nothing is asked."""

    def ask(requests: Sequence[Request], what: str) -> Mapping[str, Reply]:
        missing = [request for request in requests if request.key not in kept]
        if missing:
            raise _Unasked(missing)
        return {request.key: kept[request.key] for request in requests}

    maker, given = Maker(params, ask), params.openai
    try:
        prompts, first = maker.prompts(), []
    except _Unasked as unasked:
        text, first = "x" * round(PROMPT_TOKENS * CHARS_A_TOKEN), unasked.requests
        prompts = [
            GenerationPrompt("", name, novel, text) for name in params.languages for novel in (False, True)
        ]
    sizes = {"test": params.test, "validation": params.validation, "train": params.train}
    asked = [
        (len(wanted), request)
        for name, count in sizes.items()
        for _, wanted, request in maker.groups(
            name, 0, maker.slots(count, round(count * params.novel) if name == "test" else 0), prompts
        )
        if request.key not in kept
    ]
    chars = sum(len(json.dumps(one.body, ensure_ascii=False)) for one in [*first, *(one for _, one in asked)])
    tokens = round(chars / CHARS_A_TOKEN)
    answers = len(first) * PROMPTS_AT_ONCE * PROMPT_TOKENS + MESSAGE_TOKENS * sum(count for count, _ in asked)
    cost = None
    if given.input_price is not None and given.output_price is not None:
        cost = (tokens * given.input_price + answers * given.output_price) / 1e6
    return Estimate(len(first) + len(asked), tokens, answers, cost)
