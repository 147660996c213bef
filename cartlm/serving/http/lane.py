"""One variant that answers: its reader, the threads that call it, and the bounded queue in front of them."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from threading import Lock
from typing import Literal

from cartlm.serving.http.failures import Refused
from cartlm.serving.http.limits import Limits
from cartlm.serving.reader import Prediction, Reader, Unreadable

RECENT = 0.05  # weight of the newest message in the mean time of one


@dataclass(frozen=True)
class Timed:
    """What came of a message, and the seconds that it waited and was read. "late": it was not read in time."""

    outcome: Literal["answered", "unreadable", "failed", "late"]
    queue_s: float
    read_s: float = 0.0
    found: Prediction | None = None


class Lane:
    """A reader behind a queue. `source` is what it was loaded from, `observe` is told of each message that was read.

    Messages are accepted in the event loop and read by as many threads as the reader has workers. A message whose time is
    over is left out by the threads, so that nobody waits for answers that nobody waits for.
    """

    def __init__(
        self, name: str, source: str, reader: Reader, limits: Limits, observe: Callable[[str, Timed], None]
    ) -> None:
        self.name, self.source, self.reader, self.limits = name, source, reader, limits
        self.created = int(time.time())
        self._observe = observe
        self._threads = ThreadPoolExecutor(reader.workers, f"read-{name}")
        self._busy = Lock()
        self._accepted, self._mean_s = 0, 0.0

    @property
    def waiting(self) -> int:
        """Messages that no worker reads yet."""
        return max(0, self._accepted - self.reader.workers)

    async def ask(self, catalog: Sequence[str], messages: Sequence[str]) -> list[Prediction | Unreadable]:
        """What came of each message.

        Raises Refused: 429 where the queue has no room for all, or would not reach them in time; 503 for what is not read
        within the time limit. Raises what the reader raises where the model fails.
        """
        self._admit(len(messages))
        begun = time.perf_counter()
        jobs = [self._submit(tuple(catalog), message, begun) for message in messages]
        waited = [asyncio.wrap_future(job) for job in jobs]
        try:
            _, late = await asyncio.wait(waited, timeout=self.limits.timeout_s)
        finally:
            left_out = [job for job in jobs if job.cancel()]
            for each in waited:  # asyncio would log the error of one that nobody asks for, with its words
                each.cancel()
        for _ in left_out:
            self._observe(self.name, Timed("late", time.perf_counter() - begun))
        if late:
            limit = f"not answered within {self.limits.timeout_s:g} s: ask again later"
            raise Refused(503, limit, {"Retry-After": str(self._retry_s())})
        if failed := [error for each in waited if (error := each.exception())]:
            raise failed[0]
        return [each.result() for each in waited]

    def _admit(self, count: int) -> None:
        room = self.limits.queue + self.reader.workers
        if count > room:
            raise Refused(422, f"{count} messages at once, and {room} are the most that fit into the queue")
        with self._busy:
            starts_s, limit_s = self._wait_s(count), self.limits.timeout_s
            if not self._accepted and starts_s > limit_s:  # asking again would not help
                fit = self.reader.workers + int(limit_s * self.reader.workers / self._mean_s)
                raise Refused(
                    422, f"{count} messages take more than {limit_s:g} s: send at most {fit} at once"
                )
            if self._accepted + count > room or starts_s > limit_s:
                what = f"{self.waiting} messages wait, and there is no room or time for {count} more: ask again later"
                raise Refused(429, what, {"Retry-After": str(self._retry_s())})
            self._accepted += count

    def _wait_s(self, more: int = 0) -> float:
        """Seconds until the last message of the queue, and of so many more, is begun."""
        return max(0, self._accepted + more - self.reader.workers) * self._mean_s / self.reader.workers

    def _retry_s(self) -> int:
        """Whole seconds until about half of the queue is read."""
        return max(1, math.ceil(self._wait_s() / 2))

    def _submit(
        self, catalog: tuple[str, ...], message: str, begun: float
    ) -> Future[Prediction | Unreadable]:
        job = self._threads.submit(self._read, catalog, message, begun)
        job.add_done_callback(self._left)
        return job

    def _left(self, _: Future[Prediction | Unreadable]) -> None:
        with self._busy:
            self._accepted -= 1

    def _read(self, catalog: tuple[str, ...], message: str, begun: float) -> Prediction | Unreadable:
        started = time.perf_counter()
        found: Prediction | Unreadable | None = None
        try:
            found = self.reader.predict(catalog, message)
        except Unreadable as error:
            found = error
        finally:
            took = time.perf_counter() - started
            with self._busy:
                self._mean_s += (took - self._mean_s) * (RECENT if self._mean_s else 1)
            if isinstance(found, Prediction):
                timed = Timed("answered", started - begun, took, found)
            else:
                timed = Timed("failed" if found is None else "unreadable", started - begun, took)
            self._observe(self.name, timed)
        return found

    def close(self) -> None:
        """Read what was accepted, then free the model. Nothing is asked any more."""
        self._threads.shutdown()
        self.reader.close()
