"""Every error of the service: a status, and one line in the form that OpenAI's clients read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.status import HTTP_405_METHOD_NOT_ALLOWED

from cartlm.errors import UserError

LONGEST = 300  # characters of an error's line
KINDS = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
}


class ErrorDetail(BaseModel):
    message: str
    type: str
    code: str | None = None
    param: str | None = None


class ErrorBody(BaseModel):
    """What a response that is no success holds."""

    error: ErrorDetail


class Refused(Exception):
    """A request that is not answered, with the `status` and one line that says why."""

    def __init__(self, status: int, message: str, headers: dict[str, str] | None = None) -> None:
        line = " ".join(message.split()).encode("utf-8", "replace").decode("utf-8")
        self.status, self.message, self.headers = status, line[:LONGEST], headers
        super().__init__(self.message)

    def response(self) -> JSONResponse:
        kind = KINDS.get(self.status, "server_error" if self.status >= 500 else "invalid_request_error")
        body = ErrorBody(error=ErrorDetail(message=self.message, type=kind))
        return JSONResponse(body.model_dump(), self.status, self.headers)


def add_handlers(app: FastAPI) -> None:
    """Answer every error of the app in that form. Wrong input is not quoted: it may be a message."""

    @app.exception_handler(Refused)
    async def refused(_: Request, error: Refused) -> JSONResponse:
        return error.response()

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        return Refused(422, first_problem(error.errors())).response()

    @app.exception_handler(HTTPException)
    async def plain(request: Request, error: HTTPException) -> JSONResponse:
        headers = dict(error.headers or {})
        # Starlette names only the methods of the path's first route
        path = getattr(request.scope.get("route"), "path", None)
        if error.status_code == HTTP_405_METHOD_NOT_ALLOWED and (
            described := app.openapi()["paths"].get(path)
        ):
            headers["Allow"] = ", ".join(sorted(method.upper() for method in described))
        return Refused(error.status_code, str(error.detail), headers).response()

    @app.exception_handler(UserError)
    async def known(request: Request, error: UserError) -> JSONResponse:
        """A broken model or params.yaml: the words are for who runs the service."""
        request.state.log |= {"error": error.message, "hint": error.hint}
        return Refused(500, "this request failed: the log of the service tells more").response()

    @app.exception_handler(Exception)
    async def failed(_: Request, error: Exception) -> JSONResponse:  # which the log tells (observer.py)
        return Refused(500, "this request failed: the log of the service tells more").response()


def first_problem(errors: Sequence[Any]) -> str:
    """The first of pydantic's errors as one line, and how many more there are."""
    first = errors[0]
    if first["type"] == "json_invalid":
        return f"the body is no JSON, at character {first['loc'][-1]}"
    if first["type"] == "model_attributes_type" and first["loc"] == ("body",):
        return "the body is not read as JSON: send an object, with Content-Type: application/json"
    place = ".".join(str(part) for part in first["loc"] if part != "body")[:80] or "the body"
    more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
    return f"{place}: {first['msg'].removeprefix('Value error, ')}{more}"


def responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The error responses of a route for the OpenAPI description."""
    return {status: {"model": ErrorBody, "description": WHY[status]} for status in sorted(statuses)}


WHY = {
    400: "The body is no JSON",
    401: "No key, or a wrong one",
    403: "Without a key only programs on this machine may ask",
    404: "There is no such thing",
    408: "The request was sent too slowly",
    409: "Not now",
    413: "The body is too large",
    414: "The path is too long",
    422: "What was asked cannot be read",
    429: "The queue is full; Retry-After says for about how long",
    431: "The headers are too large",
    500: "The model failed",
    503: "Not answered within the time limit, or the disk fails",
}
EVERY = (401, 403, 408, 413, 414, 422, 431)
"""What any route may answer."""
