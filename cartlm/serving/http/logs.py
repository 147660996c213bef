"""Logs as JSON, an object per line, on standard error."""

from __future__ import annotations

import json
import logging
import traceback
from datetime import UTC, datetime
from typing import Any

LOGGER = logging.getLogger("cartlm.serving.http")


class JsonLines(logging.Formatter):
    """`logger.info(event, extra={"fields": {...}})` as {time, level, event, ...fields}.

    Of an exception only its type and places are told: its words may quote a message.
    """

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info and record.exc_info[1] is not None:
            error = record.exc_info[1]
            frames = traceback.extract_tb(error.__traceback__)
            line["error"] = type(error).__name__
            line["at"] = [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames[-12:]]
        return json.dumps(line, ensure_ascii=True, default=str)


def to_stderr() -> None:
    """Send the logs of all libraries there, from `info` on."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonLines())
    logging.basicConfig(handlers=[handler], level=logging.INFO, force=True)


def event(name: str, **fields: Any) -> None:
    """Log one."""
    LOGGER.info(name, extra={"fields": fields})
