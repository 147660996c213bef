"""Rows whose label is ours and whose words are a model's: `data.source: openai`.

Labels are sampled as in the offline source; a model behind the OpenAI API words them (cartlm/data/metaprompt.py). Its
messages are checked (cartlm/data/filters.py) and made noisy; a refused label is sampled and asked for again. Every request
depends only on params and earlier answers, so stored answers give the same bytes again.
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
from typing import Any, NamedTuple

from cartlm.data import filters, metaprompt, near_duplicates, noise, rules
from cartlm.data.config import Data, Worded
from cartlm.data.metaprompt import GenerationPrompt, Label
from cartlm.data.sampling import balanced_subset
from cartlm.engines.openai import CUT, Reply
from cartlm.engines.remote import Request
from cartlm.errors import UserError
from cartlm.task.intent import ACTIONS, Intent
from cartlm.task.rows import Row, make
from cartlm.text import help_to_read

Ask = Callable[[Sequence[Request], str], Mapping[str, Reply]]
"""The answers to requests, by key; the text says what they are for."""
PROMPTS_PER_REQUEST = 8  # generation prompts of one answer differ from each other
ATTEMPTS = 8  # in a row without a new row, each with other labels, before a run gives up


def cost_usd(settings: Worded, prompt_tokens: int, completion_tokens: int) -> float | None:
    """The list price of these tokens; None without prices in params.yaml."""
    if settings.input_price is None or settings.output_price is None:
        return None
    return (prompt_tokens * settings.input_price + completion_tokens * settings.output_price) / 1e6


@dataclass
class Report:
    """What became of the answers."""

    refused: Counter[str] = field(default_factory=Counter)
    messages: int = 0  # asked for
    replies: dict[str, Reply] = field(default_factory=dict)

    def reasons(self) -> str:
        """The most frequent reasons for refusals."""
        return ", ".join(f"{count} {reason}" for reason, count in self.refused.most_common(5))

    def metrics(self, settings: Worded) -> dict[str, int | float | str]:
        """The `wording` section of metrics/data.json: refused messages by reason, tokens, and cost at list price."""
        section: dict[str, int | float | str] = {
            "model": settings.model,
            "requests": len(self.replies),
            "messages": self.messages,
        }
        for reason, count in sorted(self.refused.items()):
            section[f"refused_{re.sub(r'[^a-z0-9]+', '_', reason.lower())}"] = count
        tokens: dict[str, int] = {}
        for name in ("prompt_tokens", "completion_tokens"):
            counts = [getattr(reply, name) for reply in self.replies.values()]
            if None not in counts:  # else the server does not count them
                tokens[name] = sum(counts)
        cost = cost_usd(settings, **tokens) if len(tokens) == 2 else None
        if cost is not None:
            section |= {"cost_usd": cost, "price_source": settings.price_source or "unknown"}
        return section | tokens


@dataclass(frozen=True)
class Slot:
    """What is fixed of a row to be made."""

    index: int
    language: str
    action: str
    novel: bool


@dataclass(frozen=True)
class Batch:
    """The labels of one request, and the prompt that words them."""

    prompt: GenerationPrompt
    slots: Sequence[Slot]
    labels: Sequence[Label]
    request: Request


class _Prompts(NamedTuple):
    """A request for some generation prompts."""

    language: str
    novel: bool
    chunk: int
    size: int


class Generator:
    """Makes the splits; `ask` returns the answers. `report` counts what became of them."""

    def __init__(self, params: Data, ask: Ask) -> None:
        self.params, self.settings, self.report = params, params.openai, Report()
        self._ask_server = ask
        self._unreadable: list[str] = []  # answers of the current attempt that are not the JSON asked for

    def splits(self) -> dict[str, list[Row]]:
        """All splits, without near-duplicates between them. Raises UserError if labels stay refused."""
        params = self.params
        if params.calibration > params.train:  # checked before anything is paid for, as is lingua below
            what = f"data.calibration={params.calibration} is more than data.train={params.train}"
            raise UserError(what, "edit params.yaml")
        filters.language_detector(tuple(sorted(params.languages)))
        prompts = self.prompts()
        test = self.rows("test", params.test, round(params.test * params.novel), prompts, [])
        validation = self.rows("validation", params.validation, 0, prompts, test)
        train = self.rows("train", params.train, 0, prompts, [*test, *validation])
        calibration = balanced_subset(train, params.calibration, self._rng("calibration"))
        return {"train": train, "validation": validation, "test": test, "calibration": calibration}

    def prompts(self) -> list[GenerationPrompt]:
        """`data.openai.prompts` generation prompts a language, and a quarter as many for the novel slice."""
        needed = [
            _Prompts(language, novel, start // PROMPTS_PER_REQUEST, min(PROMPTS_PER_REQUEST, total - start))
            for language in self.params.languages
            for novel, total in ((False, self.settings.prompts), (True, -(-self.settings.prompts // 4)))
            if not novel or self.params.novel
            for start in range(0, total, PROMPTS_PER_REQUEST)
        ]
        answers: dict[_Prompts, list[str]] = {}
        for attempt in range(ATTEMPTS):
            requests = {part: self._prompts_request(part, attempt) for part in needed if part not in answers}
            if not requests:
                break
            replies = self._ask(list(requests.values()), "generation prompts")
            for part, request in requests.items():
                try:
                    text = _complete_text(replies[request.key])
                    answers[part] = metaprompt.parse_prompts(text, part.size)
                except ValueError as error:
                    self.report.refused[f"prompts {error}"] += 1
                    self._unreadable.append(replies[request.key].text)
            self._note_unreadable("generation prompts", len(requests))
        if len(answers) < len(needed):
            what = f"no usable generation prompts in {ATTEMPTS} attempts: {self.report.reasons()}"
            raise UserError(f"{self.settings.model} gave {what}", self._hint())
        prompts = []
        for part, texts in answers.items():
            for number, text in enumerate(texts, part.chunk * PROMPTS_PER_REQUEST):
                id = f"{part.language}/{'novel' if part.novel else 'prompt'}-{number}"
                prompts.append(GenerationPrompt(id, part.language, part.novel, text))
        return prompts

    def rows(
        self, name: str, count: int, novel: int, prompts: Sequence[GenerationPrompt], others: Sequence[Row]
    ) -> list[Row]:
        """`count` rows, none a near-duplicate of one of `others` or worded twice; the first `novel` slots are novel."""
        slots = self.slots(count, novel)
        rows: dict[int, Row] = {}
        attempt = in_vain = 0
        while len(rows) < count and in_vain < ATTEMPTS:
            pending = [slot for slot in slots if slot.index not in rows]
            batches = self.batches(name, attempt, pending, prompts)
            replies = self._ask([batch.request for batch in batches], f"{name}, attempt {attempt + 1}")
            fresh = [
                row
                for batch in batches
                for row in self.read_reply(name, attempt, batch, replies[batch.request.key])
            ]
            self._note_unreadable(name, len(batches))
            before = len(rows)
            self._keep(fresh, rows, others)
            attempt, in_vain = attempt + 1, 0 if len(rows) > before else in_vain + 1
        if missing := count - len(rows):
            what = f"{missing} of {count} labels stay refused after {attempt} attempts"
            raise UserError(f"{name}: {what}: {self.report.reasons()}", self._hint())
        ordered = [rows[index] for index in range(count)]
        self._rng(f"{name}/order").shuffle(ordered)
        return [replace(row, id=f"{name}-{index:05d}") for index, row in enumerate(ordered)]

    def slots(self, count: int, novel: int) -> list[Slot]:
        """Languages and actions in turn, so that both stay balanced; the first `novel` ones are novel."""
        languages = self.params.languages
        return [
            Slot(i, languages[i % len(languages)], ACTIONS[(i // len(languages)) % len(ACTIONS)], i < novel)
            for i in range(count)
        ]

    def batches(
        self, name: str, attempt: int, pending: Sequence[Slot], prompts: Sequence[GenerationPrompt]
    ) -> list[Batch]:
        """Requests of up to `data.openai.examples` labels of one language, the prompts in turn."""
        batches, size = [], self.settings.examples
        for language, novel in dict.fromkeys((slot.language, slot.novel) for slot in pending):
            slots = [slot for slot in pending if (slot.language, slot.novel) == (language, novel)]
            choices = [prompt for prompt in prompts if (prompt.language, prompt.novel) == (language, novel)]
            for number, start in enumerate(range(0, len(slots), size)):
                prompt = choices[(attempt + number) % len(choices)]
                batches.append(self._batch(name, attempt, prompt, slots[start : start + size]))
        return batches

    def _batch(self, name: str, attempt: int, prompt: GenerationPrompt, slots: Sequence[Slot]) -> Batch:
        first = slots[0].index
        rng = self._rng(f"{name}/{attempt}/{first}")
        labels = [self._sample_label(slot, rng) for slot in slots]
        body = metaprompt.wording_body(self.settings, prompt, labels)
        return Batch(prompt, slots, labels, self._request(f"{name} {first}", body, (name, attempt, first)))

    def _sample_label(self, slot: Slot, rng: random.Random) -> Label:
        """Product, catalog and quantity, sampled as in the offline source."""
        line = rules.sample_line(rng.choice(rules.products(slot.language, slot.novel)), rng)
        catalog = rules.sample_catalog(line, self.params.catalog, rng)
        intent = Intent(slot.action, line.text, rules.sample_quantity(rng))
        noisy = self.settings.noise == "asked" and rng.random() >= self.params.noise.clean
        kind = rng.choice(sorted(metaprompt.NOISE)) if noisy else ""
        return Label(line, catalog, intent, kind)

    def read_reply(self, name: str, attempt: int, batch: Batch, reply: Reply) -> list[Row]:
        """The sound messages of an answer as rows, noise added; the others are counted by reason."""
        self.report.messages += len(batch.labels)
        try:
            messages = metaprompt.parse_messages(_complete_text(reply), len(batch.labels))
        except ValueError as error:
            self.report.refused[str(error)] += len(batch.labels)
            self._unreadable.append(reply.text)
            return []
        rows, languages = [], self.params.languages
        for slot, label, message in zip(batch.slots, batch.labels, messages, strict=True):
            line, catalog, intent = label.line, label.catalog, label.intent
            reason = filters.refusal(message, line, catalog, intent.quantity, slot.language, languages)
            if reason:
                self.report.refused[reason] += 1
                continue
            operators = [label.noise] if label.noise else []
            if self.settings.noise == "ours":
                rng = self._rng(f"{name}/{attempt}/{slot.index}/noise")
                message, operators = noise.apply(message, slot.language, self.params.noise, rng)
            tags: dict[str, str | bool | int] = {
                "noise": "+".join(operators) or "clean",
                "template": batch.prompt.id,
                "novel": slot.novel,
                "twins": rules.names(line, catalog).twin,
                "catalog_lines": len(catalog),
            }
            texts = [line.text for line in catalog]
            rows.append(make(f"{slot.index}", slot.language, texts, message, intent, tags))
        return rows

    def _keep(self, fresh: Sequence[Row], rows: dict[int, Row], others: Sequence[Row]) -> None:
        """Add the fresh rows that are no near-duplicate of another split, and not worded before in this one."""
        threshold = self.params.gates.near_duplicate
        scores, _ = near_duplicates.nearest(fresh, others, threshold)
        seen = {near_duplicates.comparable(row) for row in rows.values()}
        for row, score in zip(fresh, scores, strict=True):
            text = near_duplicates.comparable(row)
            if score >= threshold:
                self.report.refused["near-duplicate"] += 1
            elif text in seen:
                self.report.refused["said before"] += 1
            else:
                seen.add(text)
                rows[int(row.id)] = row

    def _prompts_request(self, part: _Prompts, attempt: int) -> Request:
        body = metaprompt.prompts_body(self.settings, part.language, part.size, part.novel)
        return self._request(f"prompts {part.language} {part.chunk}", body, (*part, attempt))

    def _request(self, row: str, body: dict[str, Any], index: Sequence[Any]) -> Request:
        """A request whose key is made of server, body and index: the same words asked twice are two requests."""
        key = json.dumps([self.settings.base_url, body, list(index)], sort_keys=True)
        return Request(row, body, hashlib.sha256(key.encode()).hexdigest()[:16])

    def _ask(self, requests: Sequence[Request], what: str) -> Mapping[str, Reply]:
        self._unreadable.clear()
        replies = self._ask_server(requests, what)
        self.report.replies |= replies
        return replies

    def _note_unreadable(self, name: str, requests: int) -> None:
        if line := help_to_read(self._unreadable, requests, self._hint()):
            print(f"{name}: {line}", file=sys.stderr)

    def _rng(self, name: str) -> random.Random:
        return random.Random(f"{self.params.seed}/openai/{name}")

    def _hint(self) -> str:
        if self.report.refused["cut at max_tokens"] or self.report.refused["prompts cut at max_tokens"]:
            return "raise data.openai.max_tokens in params.yaml"
        return "set data.openai.model to another model, or data.openai.structured to true, in params.yaml"


def _complete_text(reply: Reply) -> str:
    """The text of an answer. Raises ValueError if it was cut."""
    if reply.finish_reason.lower() in CUT:
        raise ValueError("cut at max_tokens")
    return reply.text
