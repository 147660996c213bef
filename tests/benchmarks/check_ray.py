"""Does `cartlm predict --ray` answer all messages once whoever dies, and how fast? Run by `make check-ray`, not by pytest.

python -m tests.benchmarks.check_ray --messages 100000

Messages of test rows are read by one process and by two local actors of Ray, of which one is killed, and so is the driver; then
the same command goes on. All must have an answer, none two, each that of the one process; exit code 1 otherwise. This may run in
the background and for hours: a check that was stopped goes on where it was. With --timed so many messages are read by each once
more, without kills: Ray's speed as a share of one process's on the same cores, and where its workers' time goes. Run that on
a machine that does nothing else.
"""

from __future__ import annotations

import itertools
import json
import math
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import click
import pyarrow as pa
from pyarrow import parquet

from cartlm import command
from cartlm.errors import UserError
from cartlm.files import sha256
from cartlm.pipeline.repository import resolve_commit
from cartlm.serving.cluster import ClusterJob, predict_on_ray
from cartlm.serving.models import find_model
from cartlm.task import rows as task_rows
from tests import ROOT
from tests.fixtures.ray_runs import answers, kill_worker_and_driver, parts

KEPT = ROOT / "runs/check-ray"
SETTINGS = "settings.json"
PARTS = 20  # at least, so that something is left after the kills


@command.command
@click.option("--messages", type=click.IntRange(min=PARTS), default=2000)
@click.option("--variant", default="q4_k_m")
@click.option("--workers", type=click.IntRange(min=1), default=2)
@click.option(
    "--rows",
    type=click.Path(path_type=Path),
    default=ROOT / "data/test.jsonl",
    help="Whose messages are repeated.",
)
@click.option("--timed", type=click.IntRange(min=0), default=0, help="Number of messages to time; 0: none.")
def main(messages: int, variant: str, workers: int, rows: Path, timed: int) -> int:
    """Print what was found as one JSON line."""
    model = find_model(variant)
    commit = resolve_commit(ROOT, "HEAD")
    keep_unless_other(
        messages=messages, model=model.identity(), workers=workers, rows=sha256(rows), commit=commit
    )
    source, alone, output = KEPT / "rows.parquet", KEPT / "alone.parquet", KEPT / "killed"
    if not source.exists():
        write_messages(source, rows, messages)
    size = min(2000, messages // PARTS)
    asked = ["--input", str(source), "--variant", variant]
    run([*asked, "--output", str(alone)])
    on_ray = [*asked, "--ray", "--workers", str(workers), "--partition", str(size), "--output", str(output)]
    if not (after := KEPT / "after-kill.json").exists():
        shutil.rmtree(output, ignore_errors=True)  # workers have to run while parts are missing
        kill_worker_and_driver(
            cartlm(on_ray), ROOT, output, KEPT / "stderr.txt", (PARTS // 5, PARTS // 2), wait_s=1800
        )
        after.write_text(json.dumps({"parts_after_kill": math.ceil(messages / size) - len(parts(output))}))
    run(on_ray)
    result = compared(answers(alone), answers(*parts(output))) | json.loads(after.read_text())
    if timed:
        result |= timings(variant, rows, timed, workers)
    command.done({"messages": messages, **result})
    (KEPT / SETTINGS).unlink()  # the next check is another one
    return int(result["lost"] + result["twice"] + result["different"] > 0)


def keep_unless_other(**settings: Any) -> None:
    """Remove what an earlier check left, unless it had these settings and was stopped."""
    noted = KEPT / SETTINGS
    if not (noted.exists() and json.loads(noted.read_text()) == settings):
        shutil.rmtree(KEPT, ignore_errors=True)
        KEPT.mkdir(parents=True)
        noted.write_text(json.dumps(settings))


def timings(variant: str, rows: Path, messages: int, workers: int) -> dict[str, Any]:
    """Speed of one process and of Ray on so many messages."""
    here = KEPT / "timed"
    shutil.rmtree(here, ignore_errors=True)
    here.mkdir()
    write_messages(here / "rows.parquet", rows, messages)
    asked = ["--input", str(here / "rows.parquet"), "--variant", variant]
    one_process = run([*asked, "--output", str(here / "alone.parquet")])
    size = max(1, min(2000, messages // PARTS))
    model = str(find_model(variant).path.absolute())
    job = ClusterJob(str(here / "rows.parquet"), str(here / "ray"), model, size, workers=workers)
    return {"timed": messages, **shares(predict_on_ray(job), rate(one_process))}


def write_messages(path: Path, rows: Path, count: int) -> None:
    """So many messages of these rows, over and over."""
    every = itertools.islice(itertools.cycle(task_rows.read(rows)), count)
    values = [{"id": at, "message": row.message, "catalog": row.catalog} for at, row in enumerate(every)]
    parquet.write_table(pa.Table.from_pylist(values), path)


def cartlm(arguments: list[str]) -> list[str]:
    """The command line of `cartlm predict`."""
    return [sys.executable, "-m", "cartlm.cli", "predict", *arguments]


def run(arguments: list[str]) -> str:
    """What `cartlm predict` prints. Raises UserError where it fails."""
    done = subprocess.run(cartlm(arguments), cwd=ROOT, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise UserError(
            f"cartlm predict {' '.join(arguments)}: exit code {done.returncode}", "see its error above"
        )
    return done.stdout


def compared(wanted: list[dict[str, Any]], found: list[dict[str, Any]]) -> dict[str, int]:
    """How many rows have no answer, more than one, and another one than `wanted`."""
    ids, by_id = Counter(row["id"] for row in found), {row["id"]: row for row in wanted}
    return {
        "answers": len(found), "lost": len(by_id.keys() - ids.keys()), "twice": sum(count > 1 for count in ids.values()),
        "different": sum(row != by_id.get(row["id"]) for row in found),
    }  # fmt: skip


def rate(line: str) -> float:
    """The messages a second of a line that `cartlm predict` prints."""
    found = re.search(r"([\d.e+]+) messages/s", line)
    assert found, line
    return float(found[1])


def shares(outcome: Any, one_process: float) -> dict[str, Any]:
    """Speed beside one process, and the shares of the workers' time."""
    time_s = outcome.workers * outcome.run_s
    busy = {name.removesuffix("_s"): round(seconds / time_s, 4) for name, seconds in outcome.busy.items()}
    on_ray = outcome.asked / outcome.run_s
    return {
        "one_process_per_s": one_process, "ray_per_s": round(on_ray, 2), "share_of_one_process": round(on_ray / one_process, 4),
        "start_s": round(outcome.start_s, 1), "workers_time": {**busy, "idle": round(1 - sum(busy.values()), 4)},
    }  # fmt: skip


if __name__ == "__main__":
    main()
