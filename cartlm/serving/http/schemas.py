"""Bodies of requests and responses."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from cartlm.serving.http.limits import MAX_BATCH, MAX_LINE, MAX_LINES, MAX_MESSAGE

ID = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$"
CatalogId = Annotated[str, Field(pattern=ID, description="Letters, digits, '.', '_' and '-', up to 100")]
Line = Annotated[str, Field(min_length=1, max_length=MAX_LINE)]
Lines = Annotated[list[Line], Field(min_length=1, max_length=MAX_LINES, description="One product each")]
Message = Annotated[str, Field(min_length=1, max_length=MAX_MESSAGE)]
Variant = Annotated[str, Field(max_length=100, description="One of /v1/models; the first by default")]


class Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class Catalog(Body):
    """The products of a shop."""

    lines: Lines


class StoredCatalog(BaseModel):
    id: str
    lines: list[str]
    updated: str


class CatalogSummary(BaseModel):
    id: str
    count: int
    updated: str


class CatalogPage(BaseModel):
    """`next` is the `after` of the following page, null on the last one."""

    catalogs: list[CatalogSummary]
    next: str | None


class _Asked(Body):
    catalog: Lines | None = None
    catalog_id: CatalogId | None = None
    variant: Variant | None = None

    @model_validator(mode="after")
    def _one_catalog(self) -> _Asked:
        if (self.catalog is None) == (self.catalog_id is None):
            raise ValueError("give either catalog or catalog_id")
        return self


class Question(_Asked):
    """A message, with the lines of a catalog or the id of a stored one."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"message": "2 large oat milks please", "catalog": ["Oat Milk 1 l", "Oat Milk 2 l"]}]
        }
    )
    message: Message


class Questions(_Asked):
    """Several messages over one catalog."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"messages": ["2 large oat milks please"], "catalog": ["Oat Milk 1 l", "Oat Milk 2 l"]}
            ]
        }
    )
    messages: Annotated[list[Message], Field(min_length=1, max_length=MAX_BATCH)]


class IntentBody(BaseModel):
    """`none`: the message is no order, and names no product; the quantity is 0."""

    action: Literal["add", "remove", "none"]
    product: str
    quantity: int


class Answer(BaseModel):
    """`confidence` is the share of right answers among answers like this one where the variant is `calibrated` (/v1/models),
    else the probability among the legal answers, null where these were not compared. `latency_ms` is the time from message to
    intent, without the wait in the queue."""

    intent: IntentBody
    confidence: float | None
    latency_ms: float
    variant: str


class Unanswered(BaseModel):
    """A message of a batch without an intent, and why."""

    error: str


class Answers(BaseModel):
    """In the order of the messages."""

    answers: list[Answer | Unanswered]


class Health(BaseModel):
    status: Literal["ok"] = "ok"


class ModelCard(BaseModel):
    """A variant that answers; `default`: where none is named. `calibrated`: its confidences are shares of right answers."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: Literal["cartlm"] = "cartlm"
    engine: str
    default: bool
    calibrated: bool


class ModelList(BaseModel):
    object: Literal["list"] = "list"
    data: list[ModelCard]
