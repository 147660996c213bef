"""The rows of JSON Lines and Parquet files in partitions, on a local disk or a store that pyarrow reads (s3://..., gs://...)."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from cartlm.data.tables import folded
from cartlm.errors import UserError

READ = (".jsonl", ".ndjson", ".parquet")
CHUNK = 1 << 20  # bytes


@dataclass(frozen=True)
class Partition:
    """Some rows of one file: `first` is the number of the first one from 1, `offset` its place in bytes (JSON Lines)."""

    number: int
    path: str
    first: int
    rows: int
    offset: int = 0

    @property
    def name(self) -> str:
        """The beginning of the names of its files."""
        return f"part-{self.number:06}"


def open_url(url: str) -> tuple[Any, str]:
    """pyarrow's filesystem of a URL or a local path, and the path there. Raises UserError for one that it does not know."""
    from pyarrow import fs

    try:
        if "://" in url:
            filesystem, path = fs.FileSystem.from_uri(url)
            return filesystem, path
        return fs.LocalFileSystem(), url
    except (OSError, ValueError) as error:
        raise UserError(
            f"{url} cannot be opened: {str(error).splitlines()[0]}", "name a path, or s3://BUCKET/PATH"
        ) from None


def list_files(url: str) -> tuple[Any, list[Any]]:
    """The filesystem, and pyarrow's FileInfo of a file or of all files of READ in a folder, by name. Raises UserError for none."""
    from pyarrow import fs

    filesystem, path = open_url(url)
    try:
        info = filesystem.get_file_info(path)
        if info.type == fs.FileType.Directory:
            found = filesystem.get_file_info(fs.FileSelector(path, recursive=True))
            files = sorted(found, key=lambda each: each.path)
        else:
            files = [info] if info.type == fs.FileType.File else []
    except OSError as error:
        raise UserError(
            f"{url} cannot be read: {str(error).splitlines()[0]}", "check the URL and its keys"
        ) from None
    files = [each for each in files if each.path.endswith(READ)]
    if not files:
        raise UserError(f"{url} has no file of {', '.join(READ)}", "name such a file, or a folder with some")
    return filesystem, files


def plan(filesystem: Any, paths: list[str], size: int) -> list[Partition]:
    """All rows in partitions of at most `size`; reads JSON Lines once, and of Parquet no rows. Raises UserError for a broken file."""
    parts: list[Partition] = []
    for path in paths:
        with _readable(path):
            begins = (_parquet if path.endswith(".parquet") else _lines)(filesystem, path, size)
        parts += [Partition(len(parts) + at, path, *begin) for at, begin in enumerate(begins)]
    return parts


@contextmanager
def _readable(path: str) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {str(error).splitlines()[0]}", "mend the file") from None


def columns_of(filesystem: Any, path: str) -> dict[str, str]:
    """The columns of a file, as they are matched -> as the file has them; of JSON Lines those of its first row.

    Raises UserError for a broken file.
    """
    with _readable(path):
        if path.endswith(".parquet"):
            from pyarrow import parquet

            names = parquet.read_schema(path, filesystem=filesystem).names
        else:
            with filesystem.open_input_file(path) as file:
                names = list(json.loads(io.BufferedReader(file).readline()))
    return {folded(name): name for name in names}


def records(filesystem: Any, part: Partition) -> Iterator[tuple[int, dict[str, Any] | str]]:
    """(line, record) of each row, or (line, problem); keys are `folded`. As cartlm.data.tables.Source.records."""
    rows = _parquet_rows if part.path.endswith(".parquet") else _json_rows
    for line, record in enumerate(rows(filesystem, part), part.first):
        if isinstance(record, str):
            yield line, record
        else:
            yield line, {folded(name): value for name, value in record.items()}


def _parquet(filesystem: Any, path: str, size: int) -> list[tuple[int, int, int]]:
    from pyarrow import parquet

    with filesystem.open_input_file(path) as file:
        rows = parquet.ParquetFile(file).metadata.num_rows
    return [(first + 1, min(size, rows - first), 0) for first in range(0, rows, size)]


def _lines(filesystem: Any, path: str, size: int) -> list[tuple[int, int, int]]:
    """(first row, rows, offset); empty lines are rows, which have no answer."""
    offsets, lines, begin = [0], 0, 0
    with filesystem.open_input_stream(path) as stream:
        last = b"\n"
        while chunk := stream.read(CHUNK):
            at = chunk.find(b"\n")
            while at >= 0:
                lines += 1
                if lines % size == 0:
                    offsets.append(begin + at + 1)
                at = chunk.find(b"\n", at + 1)
            begin, last = begin + len(chunk), chunk
    lines += not last.endswith(b"\n")  # the last line may lack its end
    starts = range(0, lines, size)
    return [
        (first + 1, min(size, lines - first), offset) for first, offset in zip(starts, offsets, strict=False)
    ]


def _parquet_rows(filesystem: Any, part: Partition) -> Iterator[dict[str, Any]]:
    from pyarrow import parquet

    with filesystem.open_input_file(part.path) as file:
        source = parquet.ParquetFile(file)
        begin, skipped, wanted = 0, 0, list[int]()
        for group in range(source.num_row_groups):
            rows = source.metadata.row_group(group).num_rows
            if begin + rows > part.first - 1 and begin < part.first - 1 + part.rows:
                skipped = skipped if wanted else begin
                wanted.append(group)
            begin += rows
        place = skipped
        for batch in source.iter_batches(row_groups=wanted):
            for record in batch.to_pylist():
                if part.first - 1 <= place < part.first - 1 + part.rows:
                    yield record
                place += 1


def _json_rows(filesystem: Any, part: Partition) -> Iterator[dict[str, Any] | str]:
    with filesystem.open_input_file(part.path) as file:
        file.seek(part.offset)
        for _, line in zip(range(part.rows), io.BufferedReader(file), strict=False):
            try:
                record = json.loads(line.decode("utf-8"))
                yield record if isinstance(record, dict) else f"not a JSON object but {record!r:.40}"
            except ValueError as error:
                yield f"not JSON: {error}"
