"""A cgroup for one process, where this machine lends one."""

from __future__ import annotations

import subprocess
import sys

import pytest

from cartlm.files import MIB
from cartlm.system import cgroup


def test_the_peak_of_a_real_group() -> None:
    if reason := cgroup.why_none():
        pytest.skip(f"this machine lends no memory cgroup: {reason}")
    code = (
        "import sys; from pathlib import Path; from cartlm.system import cgroup\n"
        "own = Path(sys.argv[1]); cgroup.join(own)\n"
        "block = bytearray(b'x') * (200 * 2**20); first = cgroup.peak_bytes(own); del block\n"
        "print(first, cgroup.reset_peak(own), cgroup.peak_bytes(own))"
    )
    with cgroup.own() as own:
        assert own is not None
        done = subprocess.run(
            [sys.executable, "-c", code, str(own)], capture_output=True, text=True, check=True
        )
        first, forgot, second = done.stdout.split()
        assert 200 * MIB < int(first) < 400 * MIB
        if forgot == "True":
            assert int(second) < 150 * MIB
    assert not own.exists()
