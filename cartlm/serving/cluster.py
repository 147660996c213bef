"""All messages of JSON Lines or Parquet files on a Ray cluster: `cartlm predict --ray --input URL --output URL`.

The output is a folder. manifest.json names what the answers depend on and the partitions of the input, part-NNNNNN.parquet has the
answers of a partition, part-NNNNNN.rejected.jsonl the rows without one. A partition's files are written under another name and
renamed, the answers last: a partition is done or not there, whoever was killed, and the next run answers what is left.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import socket
import sys
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from cartlm.data.tables import Source
from cartlm.errors import UserError
from cartlm.serving import partitions
from cartlm.serving.file_run import answer_line, answers_key
from cartlm.serving.journal import check_key
from cartlm.serving.outputs import parquet_bytes
from cartlm.serving.partitions import Partition
from cartlm.serving.questions import find_columns, questions
from cartlm.serving.reader import Mode, load
from cartlm.system import cpu_limits

MANIFEST, TEMPORARY = "manifest.json", ".tmp-"
LOCAL = "local"
OBJECT_STORE = 256 << 20  # bytes, of a local Ray: partitions are named to the workers, not sent


@dataclass(frozen=True)
class ClusterJob:
    """What is read into which folder, and by what; every worker finds `model` under the same name.

    `address` is of a Ray cluster, LOCAL starts one on this machine. Each of the `workers` loads the model, by default one a
    CPU of the cluster. `columns` maps message, catalog and id to the input's names. A partition has at most `rows`.
    """

    input: str
    output: str
    model: str
    rows: int
    columns: Mapping[str, str] = field(default_factory=dict)
    catalog: Sequence[str] | None = None
    decoding: Mode = "constrained"
    max_tokens: int | None = None
    anew: bool = False
    address: str = LOCAL
    workers: int | None = None


class Worker:
    """An actor with a loaded model, which answers partitions."""

    def __init__(
        self, job: ClusterJob, key: Mapping[str, Any], columns: Mapping[str, str], numbered: bool
    ) -> None:
        self._job, self._columns, self._numbered = job, columns, numbered
        mine = answers_key(job.model, job.decoding, job.catalog, job.max_tokens)
        if differs := [name for name, value in mine.items() if key[name] != value]:
            what = f"{socket.gethostname()} has another {', '.join(differs)} of {job.model} than the machine that started the run"
            raise UserError(what, "give every machine the same model and version")
        self._reader = load(job.model, decoding=job.decoding, max_tokens=job.max_tokens, threads=1)
        self._source, _ = partitions.open_url(job.input)
        self._target, self._folder = partitions.open_url(job.output)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Answer the partitions of a batch; how many rows got an answer, and how many none."""
        counts = [self._partition(Partition(**json.loads(part))) for part in batch["partition"]]
        return {"answered": [count[0] for count in counts], "rejected": [count[1] for count in counts]}

    def _partition(self, part: Partition) -> tuple[int, int]:
        rows = partitions.records(self._source, part)
        every = [
            answer_line(self._reader, each)
            for each in questions(rows, self._columns, self._job.catalog, part.first)
        ]
        answers, rejected = ([line for line in every if ("reason" in line) == no] for no in (False, True))
        texts = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in rejected)
        if rejected:
            write(self._target, f"{self._folder}/{part.name}.rejected.jsonl", texts.encode())
        write(self._target, f"{self._folder}/{part.name}.parquet", parquet_bytes(answers, self._numbered))
        return len(answers), len(rejected)


def predict_on_ray(job: ClusterJob) -> str:
    """Answer all partitions that are left; a line of what came out.

    Raises UserError for an input that cannot be read, a column that is missing, an output of another run, a model that a
    machine lacks, and a cluster that does not answer.
    """
    source, files = partitions.list_files(job.input)
    there = [partitions.columns_of(source, file.path) for file in files]
    columns = _columns(job, there)
    inputs = [[file.path, file.size, file.mtime_ns] for file in files]
    digest = hashlib.sha256(json.dumps(inputs).encode()).hexdigest()
    key = {
        "input": digest, "columns": dict(sorted(columns.items())), "rows": job.rows,
        **answers_key(job.model, job.decoding, job.catalog, job.max_tokens),
    }  # fmt: skip
    target, folder = partitions.open_url(job.output)
    parts = _begun(job, target, folder, key)
    if parts is None:
        parts = partitions.plan(source, [file.path for file in files], job.rows)
        _clear(target, folder)
        manifest = {"key": key, "partitions": [asdict(part) for part in parts]}
        write(target, f"{folder}/{MANIFEST}", json.dumps(manifest, indent=1).encode())
    there_already = _names(target, folder)
    left = [part for part in parts if f"{part.name}.parquet" not in there_already]
    numbered = "id" not in columns or _is_number(source, files, columns["id"])
    started = time.perf_counter()
    if left:
        _run(job, key, columns, numbered, left)
    seconds, rows = time.perf_counter() - started, sum(part.rows for part in left)
    answered = sum(_count(target, f"{folder}/{part.name}.parquet") for part in parts)
    rejected = sum(part.rows for part in parts) - answered
    speed = f"; {rows / seconds:.3g} messages/s" if left else ""
    return f"{answered:,} answers and {rejected:,} rows without one in {job.output}{speed}"


def _run(
    job: ClusterJob, key: Mapping[str, Any], columns: Mapping[str, str], numbered: bool, left: Sequence[Partition]
) -> None:  # fmt: skip
    """Answer these partitions on Ray Data's actors, which start again and try again where one dies."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
        from ray.data import ActorPoolStrategy, DataContext
    except ModuleNotFoundError as error:
        raise UserError(f"--ray needs the package {error.name}", "pip install -e '.[ray]'") from None
    from tqdm import tqdm

    ray.init(**_started(job), log_to_driver=False, logging_level=logging.ERROR)
    try:
        context = DataContext.get_current()
        context.enable_progress_bars = context.print_on_execution_start = False
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        most = int(ray.cluster_resources().get("CPU", 1))
        size = max(1, min(job.workers or most, most, len(left)))
        items = [{"partition": json.dumps(asdict(part))} for part in left]
        done = ray.data.from_items(items, override_num_blocks=len(items)).map_batches(
            Worker, fn_constructor_args=(job, key, columns, numbered), batch_size=1, num_cpus=1,
            compute=ActorPoolStrategy(size=size, max_tasks_in_flight_per_actor=1),
        )  # fmt: skip
        with tqdm(
            total=sum(part.rows for part in left), desc="predict", unit="message", file=sys.stderr
        ) as bar:
            for row in done.iter_rows():
                bar.update(int(row["answered"] + row["rejected"]))
    except ray.exceptions.RayTaskError as error:
        raise _cause(error) from None
    finally:
        ray.shutdown()


def _started(job: ClusterJob) -> dict[str, Any]:
    """How ray.init is called."""
    if job.address != LOCAL:
        return {"address": job.address}
    return {
        "num_cpus": cpu_limits.threads(), "object_store_memory": OBJECT_STORE, "include_dashboard": False,
        "runtime_env": {"env_vars": {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}},
    }  # fmt: skip


def _cause(error: BaseException) -> BaseException:
    """The UserError inside of what Ray raised, or else that."""
    found: BaseException | None = error
    while found is not None and not isinstance(found, UserError):
        found = getattr(found, "cause", None) or found.__cause__
    return found or error


def _columns(job: ClusterJob, files: Sequence[dict[str, str]]) -> dict[str, str]:
    """Ours -> the input's column, which every file has, as the first one has it. Raises UserError for a missing one."""
    shared = job.catalog is not None
    every = [find_columns(Source(Path(job.input), columns=there), job.columns, shared) for there in files]
    return every[0]


def _begun(job: ClusterJob, target: Any, folder: str, key: Mapping[str, Any]) -> list[Partition] | None:
    """The partitions of an earlier run with the same key; None for a new folder, or one to make anew. Raises UserError."""
    names = _names(target, folder)
    if MANIFEST not in names:
        if names:
            raise UserError(f"{job.output} holds something else", "name another output")
        return None
    with target.open_input_stream(f"{folder}/{MANIFEST}") as stream:
        manifest = json.loads(stream.read())
    if job.anew and manifest["key"] != key:
        return None
    check_key(Path(job.output), manifest["key"], key)
    return [Partition(**part) for part in manifest["partitions"]]


def _names(filesystem: Any, folder: str) -> set[str]:
    """Of the files in a folder; what a killed run left half-written is removed."""
    from pyarrow import fs

    found = filesystem.get_file_info(fs.FileSelector(folder, allow_not_found=True))
    for each in found:
        if each.base_name.startswith(TEMPORARY):
            filesystem.delete_file(each.path)
    return {each.base_name for each in found if not each.base_name.startswith(TEMPORARY)}


def _clear(filesystem: Any, folder: str) -> None:
    """Remove what an earlier run wrote, its manifest first."""
    for name in sorted(_names(filesystem, folder)):
        filesystem.delete_file(f"{folder}/{name}")


def _is_number(filesystem: Any, files: Sequence[Any], column: str) -> bool:
    """Whether the ids are numbers in every file; JSON Lines have no schema, so theirs are text."""
    from pyarrow import parquet, types

    return all(
        file.path.endswith(".parquet")
        and types.is_integer(parquet.read_schema(file.path, filesystem=filesystem).field(column).type)
        for file in files
    )


def _count(filesystem: Any, path: str) -> int:
    from pyarrow import parquet

    with filesystem.open_input_file(path) as file:
        return int(parquet.ParquetFile(file).metadata.num_rows)


def write(filesystem: Any, path: str, data: bytes) -> None:
    """A file that is there whole or not at all. Raises OSError."""
    folder, _, name = path.rpartition("/")
    filesystem.create_dir(folder)
    temporary = f"{folder}/{TEMPORARY}{uuid.uuid4().hex}-{name}"
    with filesystem.open_output_stream(temporary) as stream:
        stream.write(data)
    filesystem.move(temporary, path)
