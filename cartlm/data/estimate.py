"""What a run of `data.source: openai` would cost, estimated before anything is asked."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from cartlm.data.config import Data
from cartlm.data.generated import PROMPTS_PER_REQUEST, Generator, generation_prompts
from cartlm.data.metaprompt import GenerationPrompt
from cartlm.engines.openai import Reply
from cartlm.engines.replies import Request

CHARS_PER_TOKEN = 3.5  # of such requests, English and Croatian mixed; an estimate, servers count themselves
PROMPT_TOKENS, MESSAGE_TOKENS = 160, 35  # of a generation prompt, of a message, with the JSON around it


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
        for batch in generator.batches(name, 0, generator.slots(count, novel), prompts)
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
