"""The part of the OpenAI API that reads a message: models, chat completions, and completions of a bare prompt.

A prompt is the one that the models were trained on (`cartlm.task.prompt.render_prompt`), as the last message of the user. The
answer is the intent's JSON. Decoding is greedy and ends by itself, so sampling fields and token limits change nothing; other
fields and messages are not read.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import AsyncIterator
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import StreamingResponse

from cartlm.serving.http import schemas
from cartlm.serving.http.failures import EVERY, Refused, responses
from cartlm.serving.http.lane import Lane
from cartlm.serving.http.limits import MAX_BODY
from cartlm.serving.http.service import Service, Shared
from cartlm.serving.reader import Prediction
from cartlm.task.prompt import split_prompt

router = APIRouter(prefix="/v1", tags=["OpenAI"], responses=responses(*EVERY))
Text = Annotated[str, Field(max_length=MAX_BODY)]
ASKED = responses(400, 404, 429, 500, 503)


class _Strict(BaseModel):
    """`true` is not 1, and "1" is neither."""

    model_config = ConfigDict(extra="allow", strict=True)


class Part(_Strict):
    type: str
    text: Text = ""


class ChatMessage(_Strict):
    role: str
    content: Text | Annotated[list[Part], Field(max_length=64)] | None = None

    def text(self) -> str:
        if isinstance(self.content, list):
            return "".join(part.text for part in self.content if part.type == "text")
        return self.content or ""


class StreamOptions(_Strict):
    include_usage: bool = False


class _Asked(_Strict):
    model: schemas.Variant
    n: Annotated[int, Field(ge=1, le=1)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None


class ChatRequest(_Asked):
    """The fields that are read; all others are allowed."""

    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=256)]


class CompletionRequest(_Asked):
    """The fields that are read; all others are allowed."""

    prompt: Text


class Usage(BaseModel):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class AssistantMessage(BaseModel):
    role: Literal["assistant"] = "assistant"
    content: str
    refusal: None = None


class ChatChoice(BaseModel):
    index: int = 0
    message: AssistantMessage
    finish_reason: Literal["stop"] = "stop"
    logprobs: None = None


class TextChoice(BaseModel):
    index: int = 0
    text: str
    finish_reason: Literal["stop"] = "stop"
    logprobs: None = None


class ChatCompletion(BaseModel):
    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage


class Completion(BaseModel):
    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int
    model: str
    choices: list[TextChoice]
    usage: Usage


STREAM: dict[int | str, dict[str, Any]] = {200: {"content": {"text/event-stream": {}}}}


def _card(lane: Lane, default: bool) -> schemas.ModelCard:
    reader = lane.reader
    return schemas.ModelCard(
        id=lane.name, created=lane.created, engine=reader.model.engine, default=default, calibrated=reader.calibrated
    )  # fmt: skip


@router.get("/models")
async def list_models(service: Shared) -> schemas.ModelList:
    """The variants that answer, the default one first."""
    lanes = enumerate(service.variants)
    return schemas.ModelList(data=[_card(lane, number == 0) for number, lane in lanes])


@router.get("/models/{variant}", responses=responses(404))
async def get_model(variant: str, service: Shared) -> schemas.ModelCard:
    """A variant that answers."""
    lane = service.variants.get(variant)
    return _card(lane, lane.name == service.variants.names[0])


@router.post("/models/{variant}", responses=responses(404, 409, 500))
async def swap_model(
    variant: str, request: Request, service: Shared, place: str | None = None
) -> schemas.ModelCard:
    """Load a variant of params.yaml from the disk and let it answer, without a pause.

    One that answers already is loaded anew; another one takes the place of the default, or of the variant `place`. What was
    accepted is answered by the old one. If the new one cannot be loaded, nothing changes.
    """
    lane = await service.variants.swap(variant, place)
    request.state.log["variant"] = lane.name
    return _card(lane, lane.name == service.variants.names[0])


@router.post("/chat/completions", response_model=ChatCompletion, responses={**ASKED, **STREAM})
async def chat(body: ChatRequest, request: Request, service: Shared) -> ChatCompletion | StreamingResponse:
    """The intent's JSON, of the prompt in the user's last message."""
    prompt = next((each.text() for each in reversed(body.messages) if each.role == "user"), None)
    if prompt is None:
        raise Refused(422, "messages: none has the role user")
    name, found = await _read(service, request, body.model, prompt)
    text, usage = found.intent.canonical(), _usage(found)
    head: dict[str, Any] = {"id": f"chatcmpl-{uuid.uuid4().hex}", "created": int(time.time()), "model": name}
    if not body.stream:
        return ChatCompletion(
            choices=[ChatChoice(message=AssistantMessage(content=text))], usage=usage, **head
        )
    head["object"] = "chat.completion.chunk"
    deltas = [({"role": "assistant", "content": text}, None), ({}, "stop")]
    choices = [{"index": 0, "delta": delta, "finish_reason": reason} for delta, reason in deltas]
    return _stream(head, choices, usage, body)


@router.post("/completions", response_model=Completion, responses={**ASKED, **STREAM})
async def complete(
    body: CompletionRequest, request: Request, service: Shared
) -> Completion | StreamingResponse:
    """The intent's JSON, of a bare prompt, with the variant's separator behind it or without."""
    separator = service.variants.get(body.model).reader.model.settings.separator
    name, found = await _read(service, request, body.model, body.prompt.removesuffix(separator))
    text, usage = found.intent.canonical(), _usage(found)
    head: dict[str, Any] = {"id": f"cmpl-{uuid.uuid4().hex}", "created": int(time.time()), "model": name}
    if not body.stream:
        return Completion(choices=[TextChoice(text=text)], usage=usage, **head)
    head["object"] = "text_completion"
    return _stream(head, [{"index": 0, "text": text, "finish_reason": "stop"}], usage, body)


async def _read(service: Service, request: Request, variant: str, prompt: str) -> tuple[str, Prediction]:
    service.variants.get(variant)  # what is wrong with the name comes first
    try:
        catalog, message = split_prompt(prompt)
    except ValueError as error:
        raise Refused(422, str(error)) from None
    return await service.ask_one(request, variant, catalog, message)


def _usage(found: Prediction) -> Usage:
    asked, answered = found.work.prompt_tokens, found.work.decided_tokens + found.work.forced_tokens
    return Usage(prompt_tokens=asked, completion_tokens=answered, total_tokens=asked + answered)


def _stream(
    head: dict[str, Any], choices: list[dict[str, Any]], usage: Usage, body: _Asked
) -> StreamingResponse:
    """The answer, which is there already, as server-sent events: a chunk a choice."""

    async def events() -> AsyncIterator[str]:
        for choice in choices:
            yield f"data: {json.dumps({**head, 'choices': [choice]})}\n\n"
        if body.stream_options is not None and body.stream_options.include_usage:
            yield f"data: {json.dumps({**head, 'choices': [], 'usage': usage.model_dump()})}\n\n"
        yield "data: [DONE]\n\n"

    return StreamingResponse(events(), media_type="text/event-stream")
