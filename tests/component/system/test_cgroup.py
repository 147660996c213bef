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
        "import sys; from pathlib import Path; from cartlm.system import cgroup as group\n"
        "own = group.Group(int(sys.argv[1]), Path(sys.argv[2])); own.join()\n"
        "block = bytearray(b'x') * (200 * 2**20); first = own.peak_bytes(); del block\n"
        "print(first, own.reset_peak(), own.peak_bytes())"
    )
    with cgroup.own() as own:
        assert own is not None
        done = subprocess.run(
            [sys.executable, "-c", code, str(own.version), str(own.folder)],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        first, forgot, second = done.stdout.split()
        assert 200 * MIB < int(first) < 400 * MIB
        if forgot == "True":
            assert int(second) < 150 * MIB
    assert not own.folder.exists()
