"""The HTTP service as a deployment of Ray Serve: `serve run docs/assets/ray-serve.yaml`, whose `args` are `Options`.

Every replica has models, queue, metrics and limits of its own. Stored catalogs are in one SQLite file, so replicas on several
machines need it on a disk that they share, or the catalog in each request.
"""

from __future__ import annotations

import os
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import pydantic
from ray import serve
from starlette.types import ASGIApp

from cartlm.errors import UserError
from cartlm.serving.http.limits import Limits
from cartlm.serving.http.server import KEY, opened, read_keys
from cartlm.serving.reader import Mode, load

PLACEHOLDER = "change-me"
"""The key in docs/assets/ray-serve.yaml."""
REPLICA = ExitStack()
"""What is open as long as the process of a replica lives; without a name Python would close it."""


class Options(pydantic.BaseModel):
    """What `cartlm serve` takes. Names of variants and paths are those of the machine that a replica runs on; `here` is the folder
    whose params.yaml has the variants."""

    model_config = pydantic.ConfigDict(extra="forbid")

    variants: list[str] = pydantic.Field(min_length=1)
    here: Path = Path()
    catalogs: Path
    decoding: Mode = "constrained"
    workers: int = pydantic.Field(default=1, ge=1)
    threads: int = pydantic.Field(default=1, ge=1)
    queue: int = pydantic.Field(default=256, ge=1)
    timeout_s: float = pydantic.Field(default=30.0, gt=0)


def app(args: dict[str, Any]) -> serve.Application:
    """The application of a config file. Replicas, CPUs and autoscaling are the file's `deployments`, under the name cartlm.

    Raises UserError for wrong options, and for the key of the config file in the docs.
    """
    try:
        options = Options(**args)
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        what = f"args of cartlm: {'.'.join(map(str, first['loc']))}: {first['msg']}"
        raise UserError(what, "see docs/serve.md") from None

    _keys()

    def build() -> ASGIApp:
        return make(options)

    return serve.deployment(name="cartlm")(serve.ingress(build)()).bind()


def make(options: Options) -> ASGIApp:
    """The service of one replica. Raises UserError without a key: requests come through Ray's proxy, so all look alike."""
    os.chdir(options.here)
    if not (keys := _keys()):
        raise UserError("Ray Serve needs a key of the service", f"export {KEY}=... where the replicas run")
    limits = Limits(options.queue, options.timeout_s)
    loaded = partial(load, decoding=options.decoding, workers=options.workers, threads=options.threads)
    service = opened(options.variants, loaded, options.catalogs, keys, limits)
    application, _ = REPLICA.enter_context(service)
    return application


def _keys() -> tuple[str, ...]:
    keys = read_keys(None, os.environ)
    if PLACEHOLDER in keys:
        what = f"{KEY} is still {PLACEHOLDER}, which everyone knows"
        raise UserError(what, "python -c 'import secrets; print(secrets.token_urlsafe())'")
    return keys
