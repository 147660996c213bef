"""Reads the rows of one partition after another (cartlm.serving.partitions)."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence, Set
from itertools import accumulate
from pathlib import Path
from typing import Any

from cartlm.data import tables
from cartlm.data.tables import Records, Source, folded
from cartlm.serving.partitions import CHUNK, Input, Partition, is_parquet, json_record, lines, readable


class PartitionReader:
    """Reads partitions, one after another.

    A row of Parquet is found by decoding its row group from the beginning, and a group may be a whole file of a million rows. So
    the next partition goes on where the last one ended if it begins further on in the same group; one batch is kept.
    """

    def __init__(self, source: Input, wanted: Sequence[str]) -> None:
        self._source, self._wanted = source, wanted
        self._last: _Batches | None = None

    def records(self, part: Partition) -> Records:
        """(line, record) of each row, or (line, problem); keys are `folded`. As cartlm.data.tables.Source.records.

        Raises UserError where the file cannot be read any further.
        """
        path, rows = self._source.path(part.path), Source(Path(part.path), self._wanted)
        way = "fix or remove the file, then the same command with another output or --anew"
        with readable(path, way):
            if is_parquet(part.path):
                yield from self._parquet_rows(path, part, rows)
                return
            with self._source.filesystem.open_input_file(path) as file:
                yield from _json_rows(file, part, rows)

    def _parquet_rows(self, path: str, part: Partition, rows: Source) -> Records:
        begin, end = part.first - 1, part.first - 1 + part.rows
        last, self._last = self._last, None  # what fails on the way is opened anew
        if last is None or not last.leads_to(path, begin):
            last = _Batches(self._source.filesystem, path, begin, rows._wanted())
        for row, batch in last.cut(begin, end):
            yield from enumerate(_batch_rows(batch, rows), row + 1)
        self._last = last


def _json_rows(file: Any, part: Partition, rows: Source) -> Records:
    file.seek(part.offset)
    for (line, _, data), _ in zip(lines(file, part.line), range(part.rows), strict=False):
        yield line, json_record(rows, data)


class _Batches:
    """The columns that are `wanted` of a Parquet file, from the row group on that has the row `begin`; rows count from 0."""

    def __init__(self, filesystem: Any, path: str, begin: int, wanted: Set[str]) -> None:
        from pyarrow import parquet

        # by default all columns of all row groups that follow are fetched at once
        file = filesystem.open_input_file(path)
        self._table = parquet.ParquetFile(file, buffer_size=CHUNK, pre_buffer=False)
        groups = range(self._table.num_row_groups)
        sizes = (self._table.metadata.row_group(group).num_rows for group in groups)
        self._path, self._starts = path, [*accumulate(sizes, initial=0)]
        first = bisect_right(self._starts, begin) - 1
        names = [name for name in self._table.schema_arrow.names if folded(name) in wanted]
        self._batches = self._table.iter_batches(tables.PARQUET_ROWS, [*groups[first:]], names)
        self._row, self._batch = self._starts[first], next(self._batches, None)

    @property
    def _after(self) -> int:
        return self._row + (self._batch.num_rows if self._batch is not None else 0)

    def leads_to(self, path: str, begin: int) -> bool:
        """Whether a row is reached from here without decoding a row group before its own."""
        start = self._starts[bisect_right(self._starts, begin) - 1]
        return path == self._path and self._row <= begin and start <= self._after

    def cut(self, begin: int, end: int) -> Iterator[tuple[int, Any]]:
        """(row, batch) of the rows from `begin` until before `end`."""
        while self._batch is not None:
            low, high = max(begin, self._row), min(end, self._after)
            if low < high:
                yield low, self._batch.slice(low - self._row, high - low)
            if self._after >= end:
                return
            self._row, self._batch = self._after, next(self._batches, None)


def _batch_rows(batch: Any, rows: Source) -> Iterator[dict[str, Any] | str]:
    try:
        whole = batch.to_pylist()
    except Exception:  # a value that Python does not take is only its row's fault
        for at in range(batch.num_rows):
            try:
                (value,) = batch.slice(at, 1).to_pylist()
                yield rows._record(value)
            except UnicodeDecodeError:
                yield tables._NOT_UTF8
            except Exception as error:
                yield f"not a row that can be read ({' '.join(str(error).split()):.120})"
        return
    yield from map(rows._record, whole)
