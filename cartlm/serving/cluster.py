"""All messages of JSON Lines or Parquet files on a Ray cluster: `cartlm predict --ray --input URL --output URL`.

The output is a cartlm.serving.folder. Workers that die are started again; the next run answers the partitions that are left.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import socket
import subprocess
import sys
import time
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from cartlm.data.tables import Source, folded
from cartlm.errors import UserError
from cartlm.serving import partitions
from cartlm.serving.file_run import answer_line, answers_key
from cartlm.serving.folder import RUN, Folder, run_id
from cartlm.serving.journal import changed
from cartlm.serving.outputs import parquet_bytes
from cartlm.serving.partition_rows import PartitionReader
from cartlm.serving.partitions import Contents, Input, Partition
from cartlm.serving.questions import COLUMNS, find_columns, questions
from cartlm.serving.reader import Mode, Reader, load
from cartlm.system import cpu_limits
from cartlm.text import counted

LOCAL = "local"
PHASES = ("load_s", "read_s", "answer_s", "write_s")
PARTITION = 2000  # rows
OF_ROWS = ("input", "columns", "partition")  # what of a run's key only the machine that started it knows
OBJECT_STORE = 256 << 20  # bytes, of a local Ray: partitions are named to the workers, not sent
RETRIES = 4  # of a part whose worker dies; Ray itself would never stop
PORT_S, CONNECT_S = 10, 90  # until a port answers, and until the cluster behind it does
_SAME = "install the same cartlm on every machine: pip install -e '.[ray]'"
_AFTER_START = "look into /tmp/ray/session_latest/logs, or go without --ray"


@dataclass(frozen=True)
class ClusterJob:
    """What is read into which folder, and by what; every worker finds `model` under the same name.

    `address` is of a Ray cluster, LOCAL starts one on this machine. Each of the `workers` loads the model, by default one a
    CPU of the cluster. `columns` maps message, catalog and id to the input's names. A partition has at most `rows`.
    """

    input: str
    output: str
    model: str
    rows: int = PARTITION
    columns: Mapping[str, str] = field(default_factory=dict)
    catalog: Sequence[str] | None = None
    decoding: Mode = "constrained"
    max_tokens: int | None = None
    anew: bool = False
    address: str = LOCAL
    workers: int | None = None


@dataclass(frozen=True)
class Outcome:
    """What all runs on the output made together, and how long this one took.

    Of the `asked` rows in `run_s`, which `start_s` for Ray itself precede, the `workers` spent `busy` (phase -> seconds).
    """

    output: str
    answered: int
    rejected: int
    key: Mapping[str, Any]
    asked: int = 0
    workers: int = 0
    start_s: float = 0.0
    run_s: float = 0.0
    busy: Mapping[str, float] = field(default_factory=dict)

    def text(self) -> str:
        """A line for people."""
        speed = ""
        if self.asked:
            speed = (
                f"; {self.asked / self.run_s:.3g} messages/s, after {self.start_s:.0f} s until Ray was ready"
            )
        answers, rows = counted(self.answered, "answer"), counted(self.rejected, "row")
        return f"{answers} and {rows} without one in {self.output}{speed}"


class Worker:
    """An actor that loads the model with its first partition: what fails then is reported in one line."""

    def __init__(
        self, job: ClusterJob, source: Input, key: Mapping[str, Any], columns: Mapping[str, str], numbered: bool
    ) -> None:  # fmt: skip
        self._job, self._key = job, key
        self._columns, self._numbered = columns, numbered
        self._partitions = PartitionReader(source, [*columns.values()])
        self._reader: Reader | None = None

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Answer the partition of a batch: how many rows got an answer, how many none, seconds by phase, and what `failed`."""
        (part,) = batch["partition"]
        found: dict[str, Any] = {"answered": 0, "rejected": 0, **dict.fromkeys(PHASES, 0.0), "failed": ""}
        try:
            found |= self._partition(Partition(**json.loads(part)))
        except UserError as error:  # what is raised, Ray wraps in others and in a traceback
            found["failed"] = str(error)
        except ImportError as error:  # of a package, too
            found["failed"] = str(UserError(f"{socket.gethostname()} cannot run cartlm: {error}", _SAME))
        except OSError as error:
            what = f"{socket.gethostname()} cannot load {self._job.model}: {error}"
            found["failed"] = str(UserError(what, "give every machine the same model under the same path"))
        return {name: [value] for name, value in found.items()}

    def _partition(self, part: Partition) -> dict[str, float]:
        seconds = [time.perf_counter()]
        reader, folder = self._opened(), Folder(self._job.output)
        seconds.append(time.perf_counter())
        rows = self._partitions.records(part)
        asked = [*questions(rows, self._columns, self._job.catalog, part.start)]
        seconds.append(time.perf_counter())
        every = [answer_line(reader, question) for question in asked]
        seconds.append(time.perf_counter())
        answers, rejected = ([line for line in every if ("reason" in line) == no] for no in (False, True))
        folder.check_run(self._key)
        if rejected:
            lines = (json.dumps({"file": part.path, **line}, ensure_ascii=False) for line in rejected)
            folder.write(folder.rejected(part), "".join(f"{line}\n" for line in lines).encode())
        folder.write(folder.answers(part), parquet_bytes(answers, self._numbered, {RUN: run_id(self._key)}))
        seconds.append(time.perf_counter())
        phases = {name: seconds[at + 1] - seconds[at] for at, name in enumerate(PHASES)}
        return {"answered": len(answers), "rejected": len(rejected), **phases}

    def _opened(self) -> Reader:
        if self._reader is None:
            job = self._job
            mine = {name: self._key[name] for name in OF_ROWS}
            mine |= answers_key(job.model, job.decoding, job.catalog, job.max_tokens)
            if differs := changed(self._key, mine):
                host = socket.gethostname()
                what = f"{host} has another {', '.join(differs)} of {job.model} than the machine that started the run"
                way = "give every machine the same cartlm, model, baseline, params.yaml and metrics/eval"
                raise UserError(what, way)
            self._reader = load(job.model, decoding=job.decoding, max_tokens=job.max_tokens, threads=1)
        return self._reader


def predict_on_ray(job: ClusterJob) -> Outcome:
    """Answer all partitions that are left.

    Raises UserError for an input that cannot be read, a column that is missing, an output of another run or in use, a model
    that a machine lacks, and a cluster that does not answer.
    """
    job = replace(job, input=partitions.absolute(job.input), output=partitions.absolute(job.output))
    folder, source = Folder(job.output), partitions.list_files(job.input, job.output)
    asked = [name for name in COLUMNS if name != "catalog" or job.catalog is None]
    wanted = {folded(job.columns.get(name, name)) for name in asked}
    contents = [partitions.survey(source, name, wanted, job.rows) for name in source.names]
    columns = _columns(job, contents)
    inputs = json.dumps([[each.name, each.digest] for each in contents])
    key = {
        "input": hashlib.sha256(inputs.encode()).hexdigest(),
        "columns": {ours: folded(theirs) for ours, theirs in sorted(columns.items())},
        "partition": job.rows, **answers_key(job.model, job.decoding, job.catalog, job.max_tokens),
    }  # fmt: skip
    numbered = "id" not in columns or all(
        folded(columns["id"]) in each.numbers for each in contents if each.rows
    )
    outcome = Outcome(folder.url, 0, 0, key)
    parts = folder.begun(key, job.anew)
    if parts is None or _left(folder, parts, key):
        with folder.locked():
            started = time.perf_counter()
            with _ray(job) as workers:
                ready = time.perf_counter()
                if (parts := folder.begun(key, job.anew)) is None:
                    folder.begin(key, parts := partitions.plan(contents, job.rows))
                if left := _left(folder, parts, key):
                    folder.clear(left)
                    rows, size = sum(part.rows for part in left), max(1, min(workers, len(left)))
                    busy = _answer(Worker, (job, source, key, columns, numbered), left, size)
                    run_s = time.perf_counter() - ready
                    outcome = replace(
                        outcome, asked=rows, workers=size, start_s=ready - started, run_s=run_s, busy=busy
                    )
    done = folder.done(parts, key)
    if lost := [part for part in parts if part.number not in done]:
        what = f"{folder.url}/{folder.answers(lost[0])} was deleted or overwritten by another run meanwhile"
        raise UserError(what, "end that run, then run the same command again")
    answered = sum(done.values())
    return replace(outcome, answered=answered, rejected=sum(part.rows for part in parts) - answered)


def _left(folder: Folder, parts: Sequence[Partition], key: Mapping[str, Any]) -> list[Partition]:
    done = folder.done(parts, key)
    return [part for part in parts if part.number not in done]


def _answer(
    worker: type, arguments: tuple[Any, ...], left: Sequence[Partition], size: int
) -> dict[str, float]:
    """Answer these partitions on Ray Data's actors, which start again and try again where one dies; seconds by phase."""
    import ray
    from ray.data import ActorPoolStrategy, DataContext
    from tqdm import tqdm

    context = DataContext.get_current()
    context.enable_progress_bars = context.print_on_execution_start = False
    for name in ("ray", "ray.data"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # what fails is raised, too
    items, busy = [{"partition": json.dumps(asdict(part))} for part in left], Counter[str]()
    with warnings.catch_warnings():  # no parameter but a deprecated one has the retries
        warnings.simplefilter("ignore")
        done = ray.data.from_items(items, override_num_blocks=len(items)).map_batches(
            worker, fn_constructor_args=arguments, batch_size=1, num_cpus=1, max_task_retries=RETRIES,
            compute=ActorPoolStrategy(size=size, max_tasks_in_flight_per_actor=1),
        )  # fmt: skip
    try:
        with tqdm(
            total=sum(part.rows for part in left), desc="predict", unit="message", file=sys.stderr
        ) as bar:
            for row in done.iter_rows():
                bar.update(int(row.pop("answered") + row.pop("rejected")))
                if failed := row.pop("failed"):
                    raise UserError(failed)
                busy.update(row)
    except ray.exceptions.RayError as error:  # its text is a traceback with colours
        said = str(error)
        if lacks := re.search(r"(?:ModuleNotFound|Import)Error: (.{1,200})", said):
            raise UserError(f"a worker cannot run cartlm: {lacks[1]}", _SAME) from None
        if not isinstance(error, (ray.exceptions.RayActorError, ray.exceptions.OutOfMemoryError)):
            raise RuntimeError(said.strip().rpartition("\n")[2]) from error
        what = f"workers died {RETRIES + 1} times on one part, by a fault or for lack of memory"
        raise UserError(
            what, "fewer --workers take less memory; the reason is in /tmp/ray/session_latest/logs"
        ) from None
    return dict(busy)


@contextmanager
def _ray(job: ClusterJob) -> Iterator[int]:
    """A connection to Ray, and how many workers are wanted. Raises UserError without one."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
        import ray.data
    except ModuleNotFoundError as error:
        raise UserError(f"--ray needs the package {error.name}", "pip install -e '.[ray]'") from None
    if job.address != LOCAL:
        _check_answers(job.address)
    with _without_its_output():
        try:
            ray.init(**_started(job), log_to_driver=False, logging_level=logging.CRITICAL)
        except Exception as error:  # each of Ray's parts raises its own
            where = "does not start here" if job.address == LOCAL else f"at {job.address} cannot be used"
            raise UserError(f"Ray {where}: {' '.join(str(error).split()):.300}", _AFTER_START) from None
        try:
            most = int(ray.cluster_resources().get("CPU", 1))
            yield min(job.workers or most, most)
        finally:
            ray.shutdown()


@contextmanager
def _without_its_output() -> Iterator[None]:
    """Only what Python writes to stderr. Ray prints what it mends, such as a worker that died: from C++ to the descriptor of stderr,
    from Python to stdout. Its logs have it, too."""
    ours, number = sys.stderr, 2
    ours.flush()
    with (
        open(os.devnull, "w") as nothing,
        os.fdopen(os.dup(number), "w", encoding="utf-8", buffering=1) as kept,
    ):
        os.dup2(nothing.fileno(), number)
        with suppress(OSError):  # a test's stderr has no number
            sys.stderr = kept if ours.fileno() == number else ours
        try:
            with redirect_stdout(nothing):
                yield
        finally:
            sys.stderr = ours
            os.dup2(kept.fileno(), number)


def _started(job: ClusterJob) -> dict[str, Any]:
    """How ray.init is called."""
    if job.address != LOCAL:
        return {"address": job.address}
    return {
        "address": LOCAL, "num_cpus": cpu_limits.threads(), "object_store_memory": OBJECT_STORE, "include_dashboard": False,
        "runtime_env": {"env_vars": {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}},
    }  # fmt: skip


def _check_answers(address: str) -> None:
    """Raise UserError where no Ray is at an address: ray.init would wait for a cluster that has died."""
    if found := re.fullmatch(r"(?:ray://)?\[?([^\[\]/]+)\]?:(\d+)", address):
        try:
            socket.create_connection((found[1], int(found[2])), timeout=PORT_S).close()
        except (OSError, OverflowError) as error:
            raise _no_ray(address, getattr(error, "strerror", None) or str(error)) from None
    elif address != "auto":
        raise _no_ray(address, "it is neither HOST:PORT, ray://HOST:PORT nor auto")
    code = "import ray, sys; ray.init(address=sys.argv[1], log_to_driver=False)"
    try:
        done = subprocess.run(
            [sys.executable, "-c", code, address], capture_output=True, text=True, timeout=CONNECT_S
        )
    except subprocess.TimeoutExpired:
        raise _no_ray(address, f"no answer within {CONNECT_S} s") from None
    if "Authentication token" in done.stderr:
        what = f"the Ray cluster at {address} wants its token"
        raise UserError(what, "export RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN or ~/.ray/auth_token as there")
    if done.returncode:
        raise _no_ray(address, (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1])


def _no_ray(address: str, why: str) -> UserError:
    return UserError(
        f"no Ray cluster answers at {address}: {why}", "ray start --head there, or --ray without an address"
    )


def _columns(job: ClusterJob, contents: Sequence[Contents]) -> dict[str, str]:
    """Ours -> the input's column, which every file with rows has. Raises UserError for a missing one, and without any row."""
    sound = [each for each in contents if each.sound]
    if not sound:
        problems = [each.problem for each in contents if each.problem]
        raise UserError(
            problems[0] if problems else f"{partitions.shown(job.input)} holds no rows",
            "fix the file, or name another input",
        )
    shared = job.catalog is not None
    every = {
        each.name: find_columns(Source(Path(each.name), columns=each.columns), job.columns, shared)
        for each in sound
    }
    (first, columns), *others = every.items()
    for name, theirs in others:
        if differs := columns.keys() ^ theirs.keys():
            has, lacks = (first, name) if differs <= columns.keys() else (name, first)
            what = f"{lacks} has no column {min(differs)!r}, and {has} has one"
            raise UserError(what, "give all files the same columns, or answer them apart")
    return columns
