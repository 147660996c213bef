"""Other programs: one dies with us, its output goes to a log, its failure or death comes back as one line."""

from __future__ import annotations

import ctypes
import errno
import os
import re
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import psutil

from cartlm.errors import UserError
from cartlm.system import machine
from cartlm.system.cpu_limits import ROOT

PR_SET_PDEATHSIG = 1
# How C++ streams and numpy's tofile tell that a write failed, besides the system's own words.
FULL = re.compile(
    r"No space left on device|File too large|Disk quota exceeded|iostream error|\d+ requested and \d+ written"
)
CRASH = "a crash"
SIGNALS = {
    signal.SIGILL: "an instruction that this CPU lacks",
    signal.SIGSEGV: CRASH,
    signal.SIGBUS: CRASH,
    signal.SIGFPE: CRASH,
    signal.SIGABRT: "it gave itself up",
    signal.SIGTRAP: CRASH,
    signal.SIGSYS: "a system call that is forbidden here",
    signal.SIGKILL: "out of memory?",
    signal.SIGTERM: "stopped from outside",
    signal.SIGINT: "stopped from outside",
    signal.SIGHUP: "its terminal went away",
    signal.SIGPIPE: "nobody read what it said",
    signal.SIGXCPU: "its limit of CPU time",
    signal.SIGXFSZ: "its limit of a file's size",
}
"""What a death by each means."""
OURS = (signal.SIGILL, signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGABRT, signal.SIGTRAP)
_libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


def die_with_parent() -> None:
    """For `preexec_fn`: the kernel kills this child when its parent dies, even by kill -9 (Linux)."""
    if _libc is not None:
        _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def exit_signal(code: int) -> signal.Signals | None:
    """The signal in a return code: -n of a process, 128 + n of a shell; None where it ended by itself."""
    try:
        found = signal.Signals(-code if code < 0 else code - 128)
    except ValueError:
        return None
    return found if code < 0 or found in SIGNALS else None


def describe_exit(code: int, root: Path = ROOT) -> str:
    """How a process ended, in words: `exit code 3`, `killed by SIGSEGV: a crash`."""
    found = exit_signal(code)
    if found is None:
        return f"exit code {code}"
    words = SIGNALS.get(found, "")
    if found == signal.SIGKILL:
        limit, gib = machine.memory_limit(root), machine.GIB
        allowed = "no limit of a cgroup" if limit is None else f"{limit / gib:.1f} GiB by the cgroup's limit"
        words += f" {allowed}, {psutil.virtual_memory().total / gib:.1f} GiB in the machine"
    return f"killed by {found.name}{words and ': ' + words}"


def exit_hint(code: int, otherwise: str = "") -> str:
    """What to type after such an end; `otherwise` where no signal was sent."""
    found = exit_signal(code)
    if found is None:
        return otherwise
    if found == signal.SIGKILL:
        return "close other programs, lower the batch sizes in params.yaml or allow more memory, then run it again"
    return "make doctor" if found in OURS else "run it again"


def supervise(name: str) -> None:
    """Return in a child process; this one waits for it, tells of its death by a signal, and ends as it did.

    Call it before threads are started. A death by a signal is one line on stderr and exit code 2.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    parent, child = os.getpid(), os.fork()
    if child == 0:
        die_with_parent()
        if os.getppid() != parent:
            os._exit(1)
        return

    def pass_on(number: int, _: object) -> None:
        if number != signal.SIGINT or not _in_foreground():  # a terminal sends ^C to the child as well
            with suppress(ProcessLookupError):  # it has just ended
                os.kill(child, number)

    for each in (
        signal.SIGINT,
        signal.SIGTERM,
        signal.SIGHUP,
        signal.SIGQUIT,
        signal.SIGUSR1,
        signal.SIGUSR2,
    ):
        if signal.getsignal(each) is not signal.SIG_IGN:
            signal.signal(each, pass_on)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code < 0:
        print(
            f"cartlm: error: {UserError(f'{name}: {describe_exit(code)}', exit_hint(code))}",
            file=sys.stderr,
            flush=True,
        )
        code = 2
    os._exit(code)


def _in_foreground() -> bool:
    """Whether this process belongs to what a terminal runs at the moment."""
    try:
        with open("/dev/tty", "rb") as terminal:
            return os.tcgetpgrp(terminal.fileno()) == os.getpgrp()
    except OSError:
        return False


def run_logged(
    command: Sequence[str | Path],
    *,
    log: Path,
    writes: Path,
    hint: str,
    reason: str = r"$^",
    environ: Mapping[str, str] | None = None,
) -> str:
    """Run `command` to its end with stdout and stderr in `log`, and return what it said.

    `writes` is the file it makes; `reason` a pattern (one group) that finds the failure in the log, the last
    line is taken where it finds none. Raises OSError (ENOSPC, EFBIG) on a full disk, UserError with `hint`
    for every other failure.
    """
    first, second, *rest = [*map(str, command), ""]
    name = (
        rest[0].split(".")[-1] if second == "-m" else Path(second if second.endswith(".py") else first).name
    )
    log.parent.mkdir(parents=True, exist_ok=True)
    try:
        with log.open("wb") as file:
            code = subprocess.run(
                [str(part) for part in command], stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT,
                env=environ, preexec_fn=die_with_parent, check=False,
            ).returncode  # fmt: skip
    except (FileNotFoundError, PermissionError) as error:
        raise UserError(f"{name} does not start: {error.strerror}: {error.filename}", "make setup") from None
    said = log.read_text(encoding="utf-8", errors="replace")
    if code == 0:
        return said
    tail = said[-4000:]
    if code == -signal.SIGXFSZ or FULL.search(tail):
        number = errno.EFBIG if code == -signal.SIGXFSZ or "File too large" in tail else errno.ENOSPC
        raise OSError(number, os.strerror(number), str(writes))
    found = re.findall(reason, tail)
    lines = [line.strip() for line in tail.splitlines() if line.strip()]
    line = found[-1].strip() if found else lines[-1] if lines else "it said nothing"
    raise UserError(
        f"{name} failed ({describe_exit(code)}; all of it in {log}): {line[:300]}", exit_hint(code, hint)
    )
