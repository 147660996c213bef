"""Return codes in words."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from cartlm.system import processes


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (1, "exit code 1"), (2, "exit code 2"), (127, "exit code 127"), (255, "exit code 255"),
        (-11, "killed by SIGSEGV: a crash"), (139, "killed by SIGSEGV: a crash"), (-64, "killed by SIGRTMAX"),
        (132, "killed by SIGILL: an instruction that this CPU lacks"), (-100, "exit code -100"),
    ],
)  # fmt: skip
def test_return_codes_in_words(code: int, said: str) -> None:
    """139 is what a shell makes of SIGSEGV."""
    assert processes.describe_exit(code) == said


@pytest.mark.parametrize(
    ("limit", "words"), [("max", "no limit of a cgroup"), (str(3 * 2**29), "1.5 GiB by the cgroup's limit")]
)
def test_out_of_memory_names_the_limits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str, words: str
) -> None:
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(total=24 * 2**30))
    for name, text in {
        "proc/self/cgroup": "0::/\n",
        "sys/fs/cgroup/cgroup.controllers": "memory\n",
        "sys/fs/cgroup/memory.max": limit,
    }.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    for code in (-9, 137):
        assert (
            processes.describe_exit(code, tmp_path)
            == f"killed by SIGKILL: out of memory? {words}, 24.0 GiB in the machine"
        )
