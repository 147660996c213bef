"""Routes of our own: catalogs, intents, and swapping a variant."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from typing import Annotated

from fastapi import APIRouter, Path, Query, Request, Response
from starlette.status import HTTP_201_CREATED

from cartlm.serving.http import schemas
from cartlm.serving.http.failures import EVERY, Refused, responses
from cartlm.serving.http.schemas import ID
from cartlm.serving.http.service import Service, Shared
from cartlm.serving.reader import Prediction, Unreadable, check_catalog

router = APIRouter(prefix="/v1", responses=responses(*EVERY))
Id = Annotated[str, Path(pattern=ID, description="Letters, digits, '.', '_' and '-', up to 100")]
ASKED = responses(400, 404, 429, 500, 503)
STORED = responses(404, 503)


@router.put(
    "/catalogs/{id}",
    tags=["catalogs"],
    responses={
        **responses(400, 409, 503),
        201: {"model": schemas.CatalogSummary, "description": "It is new"},
    },
)
async def put_catalog(
    id: Id, catalog: schemas.Catalog, response: Response, service: Shared
) -> schemas.CatalogSummary:
    """Store a catalog, or replace one. It is on the disk when this answers."""
    try:
        lines = await asyncio.to_thread(check_catalog, tuple(catalog.lines))
    except Unreadable as error:
        raise Refused(422, str(error)) from None
    summary, is_new = await service.store.put(id, lines)
    if is_new:
        response.status_code = HTTP_201_CREATED
    return schemas.CatalogSummary(id=id, count=summary.count, updated=summary.updated)


@router.get("/catalogs/{id}", tags=["catalogs"], responses=STORED)
async def get_catalog(id: Id, service: Shared) -> schemas.StoredCatalog:
    """A stored catalog."""
    stored = await service.store.get(id)
    return schemas.StoredCatalog(id=id, lines=list(stored.lines), updated=stored.updated)


@router.delete("/catalogs/{id}", tags=["catalogs"], status_code=204, responses=STORED)
async def delete_catalog(id: Id, service: Shared) -> None:
    """Forget a stored catalog."""
    await service.store.delete(id)


@router.get("/catalogs", tags=["catalogs"], responses=responses(503))
async def list_catalogs(
    service: Shared,
    after: Annotated[str, Query(max_length=100, description="The last id of the page before")] = "",
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> schemas.CatalogPage:
    """The stored catalogs, by id."""
    found = await service.store.page(after, limit + 1)
    page = [
        schemas.CatalogSummary(id=each.id, count=each.count, updated=each.updated) for each in found[:limit]
    ]
    return schemas.CatalogPage(catalogs=page, next=page[-1].id if len(found) > limit else None)


async def _lines(
    asked: schemas.Question | schemas.Questions, service: Service
) -> list[str] | tuple[str, ...]:
    if asked.catalog_id is not None:
        return (await service.store.get(asked.catalog_id)).lines
    return asked.catalog or []


def _answer(found: Prediction, variant: str) -> schemas.Answer:
    return schemas.Answer(
        intent=schemas.IntentBody(**asdict(found.intent)),
        confidence=found.confidence,
        latency_ms=found.latency_ms,
        variant=variant,
    )


@router.post("/intents", tags=["intents"], responses=ASKED)
async def read_message(question: schemas.Question, request: Request, service: Shared) -> schemas.Answer:
    """What a message asks for. 422 where it cannot be read."""
    lines = await _lines(question, service)
    name, found = await service.ask_one(request, question.variant, lines, question.message)
    return _answer(found, name)


@router.post("/intents/batch", tags=["intents"], responses=ASKED)
async def read_messages(questions: schemas.Questions, request: Request, service: Shared) -> schemas.Answers:
    """What each of several messages asks for; a message that cannot be read has an `error` in its place."""
    lines = await _lines(questions, service)
    name, found = await service.ask(request, questions.variant, lines, questions.messages)
    return schemas.Answers(
        answers=[
            schemas.Unanswered(error=str(each)) if isinstance(each, Unreadable) else _answer(each, name)
            for each in found
        ]
    )
