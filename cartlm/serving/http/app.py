"""The application: routes, and what stands around them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastapi import APIRouter, FastAPI, Response, Security
from fastapi.security import HTTPBearer
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.types import ASGIApp

from cartlm import __version__
from cartlm.serving.http import chat, native, pages, schemas
from cartlm.serving.http.failures import EVERY, add_handlers, responses
from cartlm.serving.http.guard import Guard
from cartlm.serving.http.limits import Limits
from cartlm.serving.http.observer import Observer
from cartlm.serving.http.service import Service, Shared
from cartlm.task.intent import ACTIONS, NONE

ABOUT = "A shop's intent reader: catalog and message in, intent out. Errors are one line, in the form that OpenAI's clients read."
state = APIRouter(tags=["state"])
measured = APIRouter(tags=["state"], responses=responses(*EVERY))


@state.get("/healthz", responses=responses(*EVERY))
async def health() -> schemas.Health:
    """The process answers."""
    return schemas.Health()


@state.get("/readyz", responses=responses(*EVERY, 503))
async def ready(service: Shared) -> schemas.Health:
    """Models are loaded, and the catalogs can be read."""
    await service.store.page("", 1)
    return schemas.Health()


@measured.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
async def metrics(service: Shared) -> Response:
    """What Prometheus reads."""
    return Response(generate_latest(service.telemetry.registry), media_type=CONTENT_TYPE_LATEST)


def described(openapi: dict[str, Any], service: Service) -> dict[str, Any]:
    """The description, in which an intent may be none where a variant answers so."""
    body = openapi["components"]["schemas"]["IntentBody"]
    known = any(lane.reader.model.settings.none for lane in service.variants)
    body["properties"]["action"]["enum"] = [*ACTIONS, *([NONE] if known else [])]
    if not known:
        body.pop("description", None)
    return openapi


def make_app(service: Service, keys: Sequence[str] = (), limits: Limits | None = None) -> ASGIApp:
    """The ASGI application over a service, which stays the caller's to close. Without `keys` only this machine may ask."""
    # FastAPI's own pages of the description fetch their scripts from another host.
    app = FastAPI(title="cartlm", version=__version__, description=ABOUT, docs_url=None, redoc_url=None)
    app.state.service = service
    app.openapi = lambda: described(FastAPI.openapi(app), service)  # type: ignore[method-assign]
    add_handlers(app)
    guarded = [Security(HTTPBearer(auto_error=False, description="A key of this service"))] if keys else []
    app.include_router(pages.router)
    for router in (native.router, chat.router, measured):
        app.include_router(router, dependencies=guarded)
    app.include_router(state)
    service.telemetry.watch(lambda: service.variants)
    return Observer(Guard(app, keys, limits or Limits()), service.telemetry)
