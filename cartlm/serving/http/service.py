"""What the routes share: the variants, the catalogs, the counters, and how a message is asked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Annotated

from fastapi import Depends, Request

from cartlm.serving.http.failures import Refused
from cartlm.serving.http.store import Store
from cartlm.serving.http.telemetry import Telemetry
from cartlm.serving.http.variants import Variants
from cartlm.serving.reader import Prediction, Unreadable


@dataclass(frozen=True)
class Service:
    """`log_messages`: the log has messages and answers too."""

    variants: Variants
    store: Store
    telemetry: Telemetry
    log_messages: bool = False

    async def ask(
        self, request: Request, variant: str | None, catalog: Sequence[str], messages: Sequence[str]
    ) -> tuple[str, list[Prediction | Unreadable]]:
        """The variant that was asked, and what came of each message. Raises Refused, as `Lane.ask` does."""
        lane = self.variants.get(variant)
        log = request.state.log
        log |= {"variant": lane.name, "messages": len(messages)}
        if self.log_messages:
            log["texts"] = list(messages)
        found = await lane.ask(catalog, messages)
        log["unreadable"] = sum(isinstance(each, Unreadable) for each in found)
        if self.log_messages:
            log["intents"] = [asdict(each.intent) if isinstance(each, Prediction) else None for each in found]
        return lane.name, found

    async def ask_one(
        self, request: Request, variant: str | None, catalog: Sequence[str], message: str
    ) -> tuple[str, Prediction]:
        """The variant that was asked, and its prediction. Raises Refused (422) for a message that cannot be read."""
        name, found = await self.ask(request, variant, catalog, [message])
        if isinstance(found[0], Unreadable):
            raise Refused(422, str(found[0]))
        return name, found[0]


def _service(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


Shared = Annotated[Service, Depends(_service)]
