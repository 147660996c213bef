"""The output of `cartlm predict --ray`: a folder with a manifest and the files of partitions, on a disk or in a store.

manifest.json names what the answers depend on and the partitions of the input, part-NNNNNN.parquet has the answers of a
partition, part-NNNNNN.rejected.jsonl the rows without one. Files are written under another name and renamed, a partition's
answers last: a partition is done or not there, whoever was killed. The answers name their run: a worker may outlive its driver
and still write when another run has begun.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict
from typing import Any

from cartlm.errors import FULL, UserError
from cartlm.serving.file_run import is_calibrated
from cartlm.serving.journal import changed, check_key, hold
from cartlm.serving.partitions import MANIFEST, TEMPORARY, Partition, mending, open_url, readable, shown, why

LOCK = ".lock"
RUN = b"cartlm.run"
"""In the metadata of a file of answers: `run_id` of the run that made them."""
OPEN = 16  # files at the same time; a store takes its time for each
ABANDONED_S = 24 * 3600  # a file is written in seconds


def run_id(key: Mapping[str, Any]) -> bytes:
    """The SHA-256 of what a run's answers depend on."""
    return hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest().encode()


class Folder:
    """The folder at a URL or an absolute path. Every method raises UserError where it cannot be read or written."""

    def __init__(self, url: str) -> None:
        self.url = shown(url).rstrip("/")
        self._files, self._path = open_url(url)

    def answers(self, part: Partition) -> str:
        """The name of the file that is there where a partition is done."""
        return f"{part.name}.parquet"

    def rejected(self, part: Partition) -> str:
        """The name of the file of its rows without an answer."""
        return f"{part.name}.rejected.jsonl"

    def names(self) -> set[str]:
        """Of all files; not those that are being written, and not the lock."""
        return {name for name, _ in self._listed() if not name.startswith(TEMPORARY) and name != LOCK}

    def begun(self, key: Mapping[str, Any], anew: bool) -> list[Partition] | None:
        """The partitions of an earlier run with the same key; None where there is none, or none that is to be kept.

        Raises UserError where another run's answers, or someone else's files, are there.
        """
        names = self.names()
        if MANIFEST not in names:
            if names:
                raise UserError(f"{self.url} holds something else", "name another output")
            return None
        before, parts = self._manifest()
        if changed(before, key) and (anew or not any(self.answers(part) in names for part in parts)):
            return None
        check_key(self.url, before, key)
        return parts

    def begin(self, key: Mapping[str, Any], parts: Sequence[Partition]) -> None:
        """Replace an earlier run: its partitions first, so that whatever is left after a kill belongs to the manifest."""
        if MANIFEST in self.names():
            self.clear(self._manifest()[1])
        manifest = {
            "key": key,
            "calibrated": is_calibrated(key),
            "partitions": [asdict(part) for part in parts],
        }
        self.write(MANIFEST, json.dumps(manifest, indent=1, ensure_ascii=False).encode())

    @contextmanager
    def locked(self) -> Iterator[None]:
        """No other run writes here meanwhile, where the disk has locks; a store has none. Removes what killed runs left."""
        from pyarrow import fs

        if not isinstance(self._files, fs.LocalFileSystem):
            self._sweep(time.time() - ABANDONED_S)
            yield
            return
        with readable(self.url, "name another output", "written"):
            os.makedirs(self._path, exist_ok=True)
            file = open(f"{self._path}/{LOCK}", "a", encoding="utf-8")  # noqa: SIM115
        with file:
            # a worker that outlives its driver may lose a file here: its part counts as not done
            self._sweep(time.time() if hold(file, self.url) else time.time() - ABANDONED_S)
            yield

    def write(self, name: str, data: bytes) -> None:
        """A file that is there whole or not at all."""
        temporary = f"{self._path}/{TEMPORARY}{uuid.uuid4().hex}-{name}"
        try:
            self._files.create_dir(self._path)
            with self._files.open_output_stream(temporary) as stream:
                stream.write(data)
            self._files.move(temporary, f"{self._path}/{name}")
        except OSError as error:
            with suppress(OSError):
                self._files.delete_file(temporary)
            full = error.errno in FULL
            reason = os.strerror(error.errno) if error.errno else why(error)
            way = mending(error, "free some space" if full else f"ls -ld {self.url}")
            what = f"{self.url}/{name} cannot be written: {reason}"
            raise UserError(
                what, f"{way}, then run the same command again: parts that are done stay"
            ) from None

    def check_run(self, key: Mapping[str, Any]) -> None:
        """Raise UserError where another run has begun here, as the worker of a driver that was killed finds."""
        if changed(self._manifest()[0], key):
            raise UserError(f"{self.url} is another run's by now", "start one run at a time")

    def done(self, parts: Sequence[Partition], key: Mapping[str, Any]) -> dict[int, int]:
        """The number of each partition that the run with this key finished -> how many answers it has."""
        names, run = self.names(), run_id(key)
        there = [part for part in parts if self.answers(part) in names]
        with ThreadPoolExecutor(OPEN) as pool:
            counts = pool.map(lambda part: self._rows(part, run), there)
            return {part.number: rows for part, rows in zip(there, counts, strict=True) if rows is not None}

    def clear(self, parts: Sequence[Partition]) -> None:
        """Delete what is there of these partitions."""
        names = self.names()
        for part in parts:
            for name in (self.answers(part), self.rejected(part)):
                if name in names:
                    self._delete(name)

    def _rows(self, part: Partition, run: bytes) -> int | None:
        """How many answers a partition has; None where another run made them."""
        from pyarrow import parquet

        name = f"{self._path}/{self.answers(part)}"
        with (
            readable(name, f"delete {name}, then run the same command again"),
            self._files.open_input_file(name) as file,
        ):
            found = parquet.ParquetFile(file).metadata
            return int(found.num_rows) if (found.metadata or {}).get(RUN) == run else None

    def _listed(self) -> list[tuple[str, float]]:
        """(name, seconds since 1970 of the last change) of all that is there."""
        from pyarrow import fs

        with readable(self.url, "name another output"):
            found = self._files.get_file_info(fs.FileSelector(self._path, allow_not_found=True))
        return [(each.base_name, (each.mtime_ns or 0) / 1e9) for each in found]

    def _sweep(self, before: float) -> None:
        for name, changed_s in self._listed():
            if name.startswith(TEMPORARY) and changed_s <= before:
                self._delete(name)

    def _delete(self, name: str) -> None:
        with readable(f"{self.url}/{name}", "name another output", "deleted"), suppress(FileNotFoundError):
            self._files.delete_file(f"{self._path}/{name}")

    def _manifest(self) -> tuple[dict[str, Any], list[Partition]]:
        name = f"{self.url}/{MANIFEST}"
        try:
            with readable(name), self._files.open_input_stream(f"{self._path}/{MANIFEST}") as stream:
                data = stream.read()
            manifest = json.loads(data)
            key, parts = dict(manifest["key"]), [Partition(**part) for part in manifest["partitions"]]
            if any(not isinstance(part.number, int) or not isinstance(part.rows, int) for part in parts):
                raise ValueError("a partition has no number or rows")
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            what = f"{name} is none that cartlm predict --ray wrote ({type(error).__name__}: {error!s:.100})"
            raise UserError(what, "name another output, or delete that folder") from None
        return key, parts
