"""The kernel's account of a process, on real processes."""

from __future__ import annotations

import mmap
import subprocess
import sys
from pathlib import Path

import pytest

from cartlm.bench import memory
from cartlm.errors import UserError


def touched(mib: int) -> mmap.mmap:
    """So much memory of the kernel's own giving: malloc may hand out again what an earlier test in this process freed."""
    block = mmap.mmap(-1, mib * 2**20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    for page in range(0, len(block), mmap.PAGESIZE):
        block[page] = 1
    return block


def test_peak_stays_when_memory_goes() -> None:
    before = memory.now()
    block = touched(80)
    full = memory.now()
    block.close()
    after = memory.now()
    assert full["RssAnon"] - before["RssAnon"] == pytest.approx(80, abs=4)
    assert after["VmRSS"] < full["VmRSS"] - 70
    assert after["VmHWM"] >= full["VmRSS"] - 1


def test_peak_is_not_inherited() -> None:
    """getrusage's ru_maxrss is, over fork and exec: a small program started by a big one would look big."""
    block = touched(200)
    code = "from cartlm.bench import memory; print(memory.now()['VmHWM'])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 3 < float(done.stdout) < 100
    assert len(block) > 0


def test_without_proc(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="and newer only"):
        memory.now(tmp_path / "status")
    (tmp_path / "status").write_text("VmRSS:\t 2048 kB\nVmHWM:\t 4096 kB\n")
    with pytest.raises(UserError, match="RssAnon"):
        memory.now(tmp_path / "status")


def test_load_and_run_have_a_peak_each() -> None:
    block = touched(80)
    peak = memory.now()["VmHWM"]
    block.close()
    if not memory.reset_peak():
        pytest.skip("this kernel does not let a process reset its peak (/proc/self/clear_refs)")
    assert memory.now()["VmHWM"] < peak - 70


def test_a_peak_that_cannot_be_forgotten(tmp_path: Path) -> None:
    assert not memory.reset_peak(tmp_path / "none" / "clear_refs")
