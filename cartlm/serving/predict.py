"""Messages one per line, as `cartlm predict` prints their intents."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict

from cartlm.serving.reader import Reader, Unreadable


def predict_lines(
    reader: Reader, catalog: Sequence[str], messages: Iterable[str], details: bool = False
) -> Iterator[tuple[str, bool]]:
    """(JSON, whether it is an intent) of each message: the intent, or an `error` and the `answer` if there is one.

    `details` adds confidence, whether that is calibrated (`Reader.calibrated`), latency and what decoding did.
    """
    for message in messages:
        try:
            found = reader.predict(catalog, message)
        except Unreadable as error:
            answer = {"answer": error.answer} if error.answer else {}
            yield json.dumps({"error": str(error), **answer}, ensure_ascii=False), False
            continue
        if details:
            sure = {"confidence": found.confidence, "calibrated": reader.calibrated}
            values = {**asdict(found.intent), **sure, "latency_ms": found.latency_ms}
            yield json.dumps({**values, "work": asdict(found.work)}, ensure_ascii=False), True
        else:
            yield found.intent.canonical(), True
