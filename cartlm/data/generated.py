"""Rows whose label is ours and whose words are a model's: `data.source: openai`.

Labels are sampled as in the offline source; a model behind the OpenAI API words them (cartlm/data/metaprompt.py). Its
messages are checked (cartlm/data/filters.py) and made noisy; a refused label is sampled and asked for again. Every request
depends only on params and earlier answers, so stored answers give the same bytes again.
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from cartlm.data import filters, metaprompt, near_duplicates, noise, offline, rules
from cartlm.data.config import Data
from cartlm.data.metaprompt import GenerationPrompt, Label
from cartlm.data.sampling import make_in_turn, shuffled
from cartlm.data.wording_model import Ask, WordingModel
from cartlm.engines.openai import Reply
from cartlm.engines.replies import Request
from cartlm.errors import UserError
from cartlm.task.intent import Intent
from cartlm.task.rows import Row, Tags, make

PROMPTS_PER_REQUEST = 8  # generation prompts of one answer differ from each other
ATTEMPTS = 8  # in a row without a new row, each with other labels, before a run gives up
CHARS_PER_TOKEN = 3.5  # of such requests, English and Croatian mixed; an estimate, servers count themselves
PROMPT_TOKENS, MESSAGE_TOKENS = 160, 35  # of a generation prompt, of a message, with the JSON around it


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
    labels: Mapping[Slot, Label]
    request: Request


def generation_prompts(params: Data, model: WordingModel) -> list[GenerationPrompt]:
    """`data.openai.prompts` generation prompts a language, and a quarter as many for the novel slice."""
    needed = [  # language, whether they are novel, number and size of the request
        (language, novel, start // PROMPTS_PER_REQUEST, min(PROMPTS_PER_REQUEST, total - start))
        for language in params.languages
        for novel, total in ((False, params.openai.prompts), (True, -(-params.openai.prompts // 4)))
        if not novel or params.novel
        for start in range(0, total, PROMPTS_PER_REQUEST)
    ]
    answers: dict[tuple[str, bool, int, int], list[str]] = {}
    for attempt in range(ATTEMPTS):
        requests = {}
        for language, novel, chunk, size in (part for part in needed if part not in answers):
            body = metaprompt.prompts_body(params.openai, language, size, novel)
            part = (language, novel, chunk, size)
            requests[part] = model.request(f"prompts {language} {chunk}", body, (*part, attempt))
        replies = model.ask(list(requests.values()), "generation prompts")
        for part, sent in requests.items():
            reply = replies[sent.key]
            if texts := model.parse(reply, metaprompt.parse_prompts, part[-1], "prompts ", 1):
                answers[part] = texts
        model.note_unreadable("generation prompts", len(requests))
        if len(answers) == len(needed):
            break
    else:
        what = f"no usable generation prompts in {ATTEMPTS} attempts: {model.reasons()}"
        raise UserError(f"{params.openai.model} gave {what}", model.hint())
    return [
        GenerationPrompt(f"{language}/{'novel' if novel else 'prompt'}-{number}", language, novel, text)
        for (language, novel, chunk, _), texts in answers.items()
        for number, text in enumerate(texts, chunk * PROMPTS_PER_REQUEST)
    ]


class Generator:
    """Makes the splits; `ask` returns the answers, `model` counts what became of them."""

    def __init__(self, params: Data, ask: Ask) -> None:
        self.params, self.model = params, WordingModel(params.openai, ask)

    def splits(self) -> dict[str, list[Row]]:
        """All splits, without near-duplicates between them. Raises UserError if labels stay refused."""
        params = self.params
        # if it is missing, before anything is paid for
        filters.language_detector(tuple(sorted(params.languages)))
        rows = partial(self.rows, generation_prompts(params, self.model))
        return make_in_turn(params, rows, f"{params.seed}/openai")

    def rows(
        self, prompts: Sequence[GenerationPrompt], name: str, count: int, novel: int, others: Sequence[Row]
    ) -> list[Row]:
        """`count` rows, none a near-duplicate of one of `others` or worded twice; the first `novel` slots are novel."""
        slots = self.slots(name, count, novel)
        rows: dict[int, Row] = {}
        attempt = in_vain = 0
        while len(rows) < count and in_vain < ATTEMPTS:
            pending = [slot for slot in slots if slot.index not in rows]
            batches = self.batches(name, attempt, pending, prompts)
            replies = self.model.ask([batch.request for batch in batches], f"{name}, attempt {attempt + 1}")
            fresh = [
                row
                for batch in batches
                for row in self.read_reply(name, attempt, batch, replies[batch.request.key])
            ]
            self.model.note_unreadable(name, len(batches))
            before = len(rows)
            self._keep(fresh, rows, others)
            attempt, in_vain = attempt + 1, 0 if len(rows) > before else in_vain + 1
        if missing := count - len(rows):
            what = f"{missing} of {count} labels stay refused after {attempt} attempts"
            raise UserError(f"{name}: {what}: {self.model.reasons()}", self.model.hint())
        return shuffled([rows[index] for index in range(count)], name, self._rng(f"{name}/order"))

    def slots(self, name: str, count: int, novel: int) -> list[Slot]:
        """Languages and actions in turn; the first `novel` ones are novel."""
        turns = offline.in_turn(self.params.languages_of(name), count)
        return [Slot(index, *turn, index < novel) for index, turn in enumerate(turns)]

    def batches(
        self, name: str, attempt: int, pending: Sequence[Slot], prompts: Sequence[GenerationPrompt]
    ) -> list[Batch]:
        """Requests of up to `data.openai.examples` labels of one language, the prompts in turn."""
        batches, size = [], self.params.openai.examples
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
        labels = {slot: self._sample_label(slot, rng) for slot in slots}
        body = metaprompt.wording_body(self.params.openai, prompt, list(labels.values()))
        return Batch(prompt, labels, self.model.request(f"{name} {first}", body, (name, attempt, first)))

    def _sample_label(self, slot: Slot, rng: random.Random) -> Label:
        """Product, catalog and quantity, sampled as in the offline source."""
        line = rules.sample_line(rng.choice(rules.products(slot.language, slot.novel)), rng)
        catalog = rules.sample_catalog(line, self.params.catalog, rng)
        intent = Intent(slot.action, line.text, rules.sample_quantity(rng))
        noisy = self.params.openai.noise == "asked" and rng.random() >= self.params.noise.clean
        kind = rng.choice(sorted(metaprompt.NOISE)) if noisy else ""
        return Label(line, catalog, intent, kind)

    def read_reply(self, name: str, attempt: int, batch: Batch, reply: Reply) -> list[Row]:
        """The sound messages of an answer as rows, noise added; the others are counted by reason."""
        self.model.messages += len(batch.labels)
        count, rows, languages = len(batch.labels), [], self.params.languages
        messages = self.model.parse(reply, metaprompt.parse_messages, count, "", count)
        for (slot, label), message in zip(batch.labels.items(), messages, strict=False):
            line, catalog, intent = label.line, label.catalog, label.intent
            if reason := filters.refusal(message, line, catalog, intent.quantity, slot.language, languages):
                self.model.refused[reason] += 1
                continue
            operators = [label.noise] if label.noise else []
            if self.params.openai.noise == "ours":
                rng = self._rng(f"{name}/{attempt}/{slot.index}/noise")
                message, operators = noise.apply(message, slot.language, self.params.noise, rng)
            tags: Tags = {
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
                self.model.refused["near-duplicate"] += 1
            elif text in seen:
                self.model.refused["said before"] += 1
            else:
                seen.add(text)
                rows[int(row.id)] = row

    def _rng(self, name: str) -> random.Random:
        return random.Random(f"{self.params.seed}/openai/{name}")


class _Missing(Exception):
    """Requests without a stored answer, as arguments."""


def estimate(params: Data, stored: Mapping[str, Reply]) -> str:
    """What the first attempt of every label would ask for beyond the `stored` answers. Nothing is asked."""

    def ask(requests: Sequence[Request], what: str) -> Mapping[str, Reply]:
        if missing := [request for request in requests if request.key not in stored]:
            raise _Missing(*missing)
        return {request.key: stored[request.key] for request in requests}

    generator, first = Generator(params, ask), list[Request]()
    try:
        prompts = generation_prompts(params, generator.model)
    except _Missing as missing:
        first, text = list(missing.args), "x" * round(PROMPT_TOKENS * CHARS_PER_TOKEN)
        kinds = [(language, novel) for language in params.languages for novel in (False, True)]
        prompts = [GenerationPrompt("", language, novel, text) for language, novel in kinds]
    novel = round(params.test * params.novel)
    sizes = {"test": (params.test, novel), "validation": (params.validation, 0), "train": (params.train, 0)}
    batches = [
        batch
        for name, (count, novel) in sizes.items()
        for batch in generator.batches(name, 0, generator.slots(name, count, novel), prompts)
        if batch.request.key not in stored
    ]
    requests = [*first, *(batch.request for batch in batches)]
    chars = sum(len(json.dumps(request.body, ensure_ascii=False)) for request in requests)
    prompt_tokens = round(chars / CHARS_PER_TOKEN)
    completion_tokens = len(first) * PROMPTS_PER_REQUEST * PROMPT_TOKENS
    completion_tokens += MESSAGE_TOKENS * sum(len(batch.labels) for batch in batches)
    cost = params.openai.cost_usd(prompt_tokens, completion_tokens)
    price = "no price is given" if cost is None else f"about {cost:.2f} US dollars"
    return (
        f"{len(requests):,} new requests of about {prompt_tokens:,} prompt and {completion_tokens:,} completion tokens "
        f"({price}); refused messages are asked for again on top"
    )
