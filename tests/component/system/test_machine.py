"""Limits and load of real processes on this machine."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cartlm.system import cpu_limits
from tests import ROOT


def test_affinity_is_obeyed() -> None:
    """One CPU left to a real process is one thread."""
    code = (
        "import os; from cartlm.system import cpu_limits; print(cpu_limits.threads(), end=' ');"
        "os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); print(cpu_limits.affinity(), cpu_limits.threads())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    all_of_them, affinity, threads = map(int, done.stdout.split())
    assert (affinity, threads) == (1, 1)
    assert 1 <= all_of_them <= len(os.sched_getaffinity(0))


@pytest.mark.parametrize(
    ("module", "target", "other"),
    [
        ("stages.bench_cpu", "cpu", "gpu"),
        ("stages.bench_architecture", "cpu", "gpu"),
        ("stages.bench_gpu", "gpu", "cpu"),
        ("gpu.architecture", "gpu", "cpu"),
    ],
)
def test_benchmark_stages_ask_first(module: str, target: str, other: str, tmp_path: Path) -> None:
    """In an empty folder: they refuse before they look for params, models or a card."""
    environ = {**os.environ, "CARTLM_IMAGE": other, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-m", module], cwd=tmp_path, env=environ, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert f"this is the image for {other}" in done.stderr
    what = "architecture" if "architecture" in module else "bench"
    assert done.stderr.endswith(f"; make {what} TARGET={target}\n")
    assert done.stderr.count("\n") == 1


def test_half_a_cpu_gives_one_thread() -> None:
    """In a real cgroup with a real quota."""
    version, parent = next(cpu_limits.groups(Path("/"), "cpu"), (0, Path("/none")))
    quota = parent / f"cartlm-test-{os.getpid()}" / ("cpu.max" if version == 2 else "cpu.cfs_quota_us")
    try:
        quota.parent.mkdir()
    except OSError:
        pytest.skip("this machine lets no cgroup with a CPU quota be made")
    try:
        try:
            quota.write_text("50000 100000" if version == 2 else "50000")
        except OSError:
            pytest.skip("this machine hands no CPU controller to new cgroups")
        code = (
            f"import os; open({str(quota.parent / 'cgroup.procs')!r}, 'w').write(str(os.getpid()))\n"
            "from cartlm.system import cpu_limits; print(cpu_limits.cpu_quota(), cpu_limits.threads())"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert done.stdout.split() == ["0.5", "1"]
    finally:
        for _ in range(50):
            with contextlib.suppress(OSError):
                quota.parent.rmdir()
                break
            time.sleep(0.02)


def test_load_on_cpus_that_may_not_be_used_is_not_ours() -> None:
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("needs two CPUs, one of them kept free")
    code = (
        "import json, os, subprocess, sys, time; first, second, *_ = sorted(os.sched_getaffinity(0));"
        "busy = subprocess.Popen(['taskset', '-c', str(second), sys.executable, '-c', 'while True: pass']);"
        "os.sched_setaffinity(0, {first});"
        "from cartlm.system.machine import OtherPrograms; others = OtherPrograms(); time.sleep(1.5);"
        "print(json.dumps(others.so_far())); busy.kill()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    assert found["other_cpus_host"] - found["other_cpus"] > 0.5  # also beside another test that is busy
