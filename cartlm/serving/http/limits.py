"""What a client may send, and how long it may wait."""

from __future__ import annotations

from dataclasses import dataclass

MAX_BODY = 2**20  # bytes
MAX_PATH, MAX_HEADERS = 1024, 2**14  # bytes of path and query, and of all headers
MAX_LINES, MAX_LINE = 2000, 300  # lines of a catalog, characters of a line
MAX_MESSAGE = 2000  # characters
MAX_BATCH = 256  # messages
MAX_CATALOGS = 1000  # on disk
MAX_CONNECTIONS = 800  # a process has 1,024 files by default


@dataclass(frozen=True)
class Limits:
    """`queue` messages of each variant wait for a worker at the most; a request has `timeout_s` seconds to be sent, and as
    many again to be answered."""

    queue: int = MAX_BATCH
    timeout_s: float = 30.0
