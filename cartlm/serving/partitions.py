"""The rows of JSON Lines and Parquet files in partitions, on a local disk or a store that pyarrow reads (s3://..., gs://...)."""

from __future__ import annotations

import hashlib
import io
import os
import re
import shlex
from collections.abc import Iterator, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cartlm.data import tables
from cartlm.data.tables import Source, folded, repeated_column
from cartlm.errors import UserError

READ = (".jsonl", ".ndjson", ".parquet")
TEMPORARY, MANIFEST = ".tmp-", "manifest.json"
PART = re.compile(r"part-\d{6,}\.(parquet|rejected\.jsonl)")
CHUNK = 1 << 20  # bytes
OF_STORE = "check bucket, region, endpoint and keys: in the URL, or in AWS_* on every machine of the cluster"
STORE_S = 30  # Google's client asks for a quarter of an hour before it gives up
_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class Partition:
    """Some rows of one file, named from the input's folder.

    `first` is the number of the first of them in the file, `start` in all files, from 1; it is in this `line`, at this
    `offset` in bytes (of JSON Lines; of Parquet the line is the row).
    """

    number: int
    path: str
    first: int
    rows: int
    start: int
    line: int
    offset: int = 0

    @property
    def name(self) -> str:
        """The beginning of the names of its files."""
        return f"part-{self.number:06}"


@dataclass(frozen=True)
class Input:
    """The files of an input: `names` below the folder `root` of a filesystem of pyarrow."""

    filesystem: Any
    root: str
    names: Sequence[str]

    def path(self, name: str) -> str:
        """Where the filesystem has a file."""
        return f"{self.root}/{name}"


@dataclass
class Contents:
    """What a file holds: its SHA-256, its columns (as they are matched -> as the file has them), which of them are numbers of
    64 bits, and (row, line, offset) of the first row of each partition."""

    name: str
    digest: str = ""
    rows: int = 0
    columns: dict[str, str] = field(default_factory=dict)
    numbers: set[str] = field(default_factory=set)
    begins: list[tuple[int, int, int]] = field(default_factory=list)
    sound: bool = False
    problem: str = ""


def absolute(url: str) -> str:
    """The same URL, or a local path as other processes find it."""
    return url if re.match(r"[a-z0-9]+:/", url) or not url else os.path.abspath(url)


def open_url(url: str) -> tuple[Any, str]:
    """pyarrow's filesystem of a URL or a local path, and the path there. Raises UserError for one that it does not know."""
    from pyarrow import fs

    way = "name a path, or s3://BUCKET/PATH" + (", with / in a key as %2F" if "@" in url else "")
    with readable(url, way, "opened"):
        if not url:
            raise ValueError("the name is empty")
        if "://" not in url:
            if re.match(r"[a-z0-9]+:/", url):
                raise ValueError("a URL has :// in it")
            return fs.LocalFileSystem(), os.path.abspath(url)
        if url.startswith(("gs://", "gcs://")) and "retry_limit_seconds" not in url:
            url += f"{'&' if '?' in url else '?'}retry_limit_seconds={STORE_S}"
        filesystem, path = fs.FileSystem.from_uri(url)
        if not path.strip("/"):
            raise ValueError("it names no folder or file")
        return filesystem, path.rstrip("/")


@contextmanager
def readable(name: str, way: str = "fix the file", what: str = "read") -> Iterator[None]:
    """Turns what pyarrow raises into one line."""
    from pyarrow import ArrowException

    try:
        yield
    except (OSError, ValueError, ArrowException) as error:
        reason = why(error, name) or type(error).__name__
        what = f"{shown(name) or repr(name)} cannot be {what}: {reason}"
        raise UserError(what, mending(error, way)) from None


def why(error: BaseException, url: str = "") -> str:
    """What pyarrow says, without the keys of the URL."""
    return " ".join(str(error).replace(url, shown(url)).split())[:300]


def mending(error: BaseException, way: str) -> str:
    """What to do: `way`, but for an S3 store that refused or does not answer."""
    of_store = any(word in str(error) for word in ("AWS Error", "allow_bucket_creation"))
    return OF_STORE if of_store else way


def shown(url: str) -> str:
    """A URL as it is printed: without its keys and options. A local path is itself."""
    if "://" not in url:
        return url
    return re.sub(r"^(?!hdfs)(\w+://)[^/@:]*:[^@]*@", r"\1", url).partition("?")[0]


def list_files(url: str, output: str) -> Input:
    """A file, or all files of READ in a folder, by name; not the folder `output`, and no results of other runs.

    Raises UserError for none, and where input and output are the same.
    """
    from pyarrow import fs

    filesystem, path = open_url(url)
    with readable(url, "check the URL and its keys"):
        info = filesystem.get_file_info(path)
        if info.type == fs.FileType.Directory:
            found, root = _files(filesystem, path), path
        else:
            found = [info.path] if info.type == fs.FileType.File else []
            root = os.path.dirname(path)
    if not found:
        raise UserError(f"{shown(url)} is not there, or has no file", "name a file, or a folder with some")
    answers = _place(*open_url(output))
    if _place(filesystem, path) == answers:
        raise UserError(f"{shown(output)} is both --output and --input", "name another output")
    runs = {os.path.dirname(each) for each in found if os.path.basename(each) == MANIFEST}
    places = dict[str, str]()  # a file that several links lead to is read once
    for each in found:
        folder, name = os.path.split(each)
        if (
            name.lower().endswith(READ)
            and not name.startswith(".")
            and not (place := _place(filesystem, each)).startswith(f"{answers}/")
            and not (folder in runs and PART.fullmatch(name))
        ):
            if filesystem.type_name == "local" and not os.path.isfile(each):
                raise UserError(f"{each} is no file, or a link to none", "remove it, or fix the link")
            places.setdefault(place, os.path.relpath(each, root))
    names = sorted(places.values())
    if not names:
        what = f"{shown(url)} has no file of {', '.join(READ)}, which --ray reads"
        if filesystem.type_name != "local":
            found = []
        table = next((each for each in found if each.lower().endswith((".csv", ".tsv"))), "")
        raise UserError(what, _conversion(table) if table else "convert what is there")
    return Input(filesystem, root, names)


def _conversion(table: str) -> str:
    """The command that makes Parquet of a local CSV file; its delimiter is what the header has most of."""
    with readable(table), open(table, encoding="utf-8", errors="replace") as file:
        head = file.readline()
    usual = "\t" if table.lower().endswith(".tsv") else ","
    delimiter = max([usual, *tables.DELIMITERS], key=head.count)
    parse = f"csv.ParseOptions(delimiter={delimiter!r}, newlines_in_values=True)"
    code = (
        "import sys; from pyarrow import csv, parquet; "
        f"parquet.write_table(csv.read_csv(sys.argv[1], parse_options={parse}), sys.argv[2])"
    )
    paths = shlex.join([table, f"{os.path.splitext(table)[0]}.parquet"])
    return f'convert it: python -c "{code}" {paths}'


def _files(filesystem: Any, folder: str) -> list[str]:
    """Of all files of a folder and those below it the paths; of each folder its own files before links."""
    from pyarrow import fs

    if filesystem.type_name != "local":
        found = filesystem.get_file_info(fs.FileSelector(folder, recursive=True))
        return [each.path for each in found if each.type == fs.FileType.File]

    def failed(error: OSError) -> None:
        raise error

    paths, seen = list[str](), set[str]()
    for here, folders, files in os.walk(folder, onerror=failed, followlinks=True):
        if (place := os.path.realpath(here)) in seen:  # a link that loops, or a second one
            folders.clear()
            continue
        seen.add(place)
        for names in (folders, files):
            names.sort(key=lambda name: (os.path.islink(f"{here}/{name}"), name))
        paths += [f"{here}/{name}" for name in files]
    return paths


def _place(filesystem: Any, path: str) -> str:
    """A name that only this file has."""
    kind = filesystem.type_name
    return f"{kind}:{os.path.realpath(path) if kind == 'local' else path}"


def survey(source: Input, name: str, wanted: Set[str], size: int) -> Contents:
    """What a file holds, in partitions of at most `size` rows; reads it once, but of Parquet no rows.

    JSON Lines are parsed until all columns that are `wanted` were met. Raises UserError for a broken file.
    """
    path = source.path(name)
    with readable(path), source.filesystem.open_input_file(path) as file:
        return (_survey_parquet if is_parquet(name) else _survey_lines)(file, Contents(name), wanted, size)


def is_parquet(name: str) -> bool:
    return name.lower().endswith(".parquet")


def _survey_parquet(file: Any, found: Contents, wanted: Set[str], size: int) -> Contents:
    from pyarrow import parquet, types

    table = parquet.ParquetFile(file)
    for each in table.schema_arrow:
        found.columns.setdefault(folded(each.name), each.name)
        if types.is_integer(each.type) and not types.is_uint64(each.type):
            found.numbers.add(folded(each.name))
    if twice := repeated_column([each for each in table.schema_arrow.names if folded(each) in wanted]):
        raise ValueError(f"the column {twice!r:.60} occurs twice")
    found.rows = table.metadata.num_rows
    found.begins = [(row + 1, row + 1, 0) for row in range(0, found.rows, size)]
    found.sound = found.rows > 0
    file.seek(0)
    found.digest = hashlib.file_digest(file, "sha256").hexdigest()
    return found


def _survey_lines(file: Any, found: Contents, wanted: Set[str], size: int) -> Contents:
    digest, rows = hashlib.sha256(), Source(Path(found.name), [*wanted])
    for line, offset, data in lines(file, 1, digest):
        if not found.rows and (other := _is_other(data)):
            raise ValueError(other)
        if found.rows % size == 0:
            found.begins.append((found.rows + 1, line, offset))
        found.rows += 1
        if not found.sound or not rows.columns.keys() >= wanted:
            record = json_record(rows, data)
            found.sound = found.sound or not isinstance(record, str)
            found.problem = found.problem or (
                f"{found.name}:{line}: {record}" if isinstance(record, str) else ""
            )
    found.digest, found.columns = digest.hexdigest(), rows.columns
    return found


def lines(file: Any, line: int, digest: Any = None) -> Iterator[tuple[int, int, bytes]]:
    """(number, offset, bytes) of the lines that are not blank, from where the file is; `line` is the first one's number."""
    offset = file.tell()
    for number, data in enumerate(io.BufferedReader(file, CHUNK), line):
        if digest:
            digest.update(data)
        if data.strip(b" \t\r\n" + _BOM):
            yield number, offset, data
        offset += len(data)


def _is_other(head: bytes) -> str:
    """Why a file with this first line is not JSON Lines; empty for none."""
    if kind := next((kind for magic, kind in tables.BINARY.items() if head.startswith(magic)), ""):
        return f"not text but {kind}"
    head = head.removeprefix(_BOM).strip()
    if head.startswith(b"[") or head == b"{" or (head.startswith(b"{") and head.endswith(b",")):
        return "--ray reads one JSON object per line, and this is an array or an object of several lines"
    return ""


def json_record(rows: Source, line: bytes) -> dict[str, Any] | str:
    """The record of a line of JSON Lines, or the problem with it."""
    try:
        return rows._record(tables._DECODER.decode(line.decode().strip("\ufeff \t\r\n")))
    except UnicodeDecodeError:
        return tables._NOT_UTF8
    except (ValueError, RecursionError) as error:
        return tables._not_json(error)


def plan(contents: Sequence[Contents], size: int) -> list[Partition]:
    """All rows of all files in partitions of at most `size`."""
    parts, before = list[Partition](), 0
    for each in contents:
        for row, line, offset in each.begins:
            rows = min(size, each.rows - row + 1)
            parts.append(Partition(len(parts), each.name, row, rows, before + row, line, offset))
        before += each.rows
    return parts
