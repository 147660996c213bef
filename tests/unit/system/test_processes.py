"""Return codes in words."""

from __future__ import annotations

import signal
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from cartlm.system import processes


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (1, "exit code 1"), (2, "exit code 2"), (127, "exit code 127"), (255, "exit code 255"),
        (-11, "killed by SIGSEGV: Segmentation fault"), (139, "killed by SIGSEGV: Segmentation fault"), (-64, "killed by SIGRTMAX: Real-time signal 30"),
        (132, "killed by SIGILL: Illegal instruction"), (-100, "exit code -100"),
    ],
)  # fmt: skip
def test_return_codes_in_words(code: int, said: str) -> None:
    """139 is what a shell makes of SIGSEGV."""
    assert processes.describe_exit(code) == said


@pytest.mark.parametrize(("limit", "words"), [("max", "24.0 GiB"), (str(3 * 2**29), "1.5 GiB, by a limit")])
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
        assert processes.describe_exit(code, tmp_path) == f"killed by SIGKILL: out of memory? {words}"


DEATHS = [
    ("SIGSEGV", "Segmentation fault", "make doctor"),
    ("SIGBUS", "Bus error", "make doctor"),
    ("SIGILL", "Illegal instruction", "make doctor"),
    ("SIGFPE", "Floating point exception", "make doctor"),
    ("SIGABRT", "Aborted", "make doctor"),
    ("SIGKILL", "out of memory?", "lower the batch sizes"),
    ("SIGTERM", "Terminated", "run it again"),
    ("SIGHUP", "Hangup", "run it again"),
    ("SIGXCPU", "CPU time limit exceeded", "run it again"),
    ("SIGUSR1", "User defined signal 1", "run it again"),
]


@pytest.mark.parametrize(("name", "words", "next_command"), DEATHS)
def test_each_signal_has_its_meaning_and_its_next_command(name: str, words: str, next_command: str) -> None:
    for code in (-signal.Signals[name], 128 + signal.Signals[name]):
        assert words in processes.describe_exit(code)
        assert name in processes.describe_exit(code)
        assert next_command in processes.exit_hint(code)
    assert processes.exit_hint(3, "dvc repro") == "dvc repro"
