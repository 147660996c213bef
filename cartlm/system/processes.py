"""Other programs: they die with us, their output goes to a log, a failure or death by a signal is one line."""

from __future__ import annotations

import ctypes
import errno
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from cartlm.errors import UserError
from cartlm.system import machine
from cartlm.system.cpu_limits import ROOT
from cartlm.system.llama_cpp_check import FAULTS

PR_SET_PDEATHSIG = 1
# The words of C++ streams and numpy's tofile for a failed write, besides the system's own.
FULL = re.compile(
    r"No space left on device|File too large|Disk quota exceeded|iostream error|\d+ requested and \d+ written"
)
FORWARDED = ("SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2")
_libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


def die_with_parent() -> None:
    """For `preexec_fn`: the kernel kills this child when its parent dies, even by kill -9 (Linux)."""
    if _libc is not None:
        _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def exit_signal(code: int) -> signal.Signals | None:
    """The signal in a return code: -n of a process, 128 + n of a shell; None where it ended by itself."""
    with suppress(ValueError):
        return signal.Signals(-code if code < 0 else code - 128)
    return None


def describe_exit(code: int, root: Path = ROOT) -> str:
    """How a process ended: `exit code 3`, `killed by SIGSEGV: Segmentation fault`."""
    killer = exit_signal(code)
    if killer is None:
        return f"exit code {code}"
    likely = f"out of memory? {machine.describe_memory(root)}"
    return f"killed by {killer.name}: {likely if killer is signal.SIGKILL else signal.strsignal(killer)}"


def exit_hint(code: int, otherwise: str = "") -> str:
    """The next command after such an end; `otherwise` where there was no signal."""
    killer = exit_signal(code)
    if killer is None:
        return otherwise
    if killer is signal.SIGKILL:
        return "close other programs, lower the batch sizes in params.yaml or allow more memory, then run it again"
    return "make doctor" if killer in FAULTS else "run it again"


def supervise(name: str) -> None:
    """Return in a child process; the parent waits for it and ends with its exit code.

    A death by a signal is one line on stderr and exit code 2. Call it before threads are started.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    parent, child = os.getpid(), os.fork()
    if child == 0:
        die_with_parent()
        if os.getppid() != parent:
            os._exit(1)
        return

    def forward(number: int, _: object) -> None:
        if number != signal.SIGINT or not _in_foreground():  # a terminal sends ^C to the child as well
            with suppress(ProcessLookupError):  # it has just ended
                os.kill(child, number)

    for each in FORWARDED:
        if signal.getsignal(signal.Signals[each]) is not signal.SIG_IGN:
            signal.signal(signal.Signals[each], forward)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code < 0:
        error = UserError(f"{name}: {describe_exit(code)}", exit_hint(code))
        print(f"cartlm: error: {error}", file=sys.stderr, flush=True)
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
    command: Sequence[str | Path], *, log: Path, writes: Path, hint: str, reason: str = r"$^",
    environ: Mapping[str, str] | None = None,
) -> None:  # fmt: skip
    """Run `command` to its end with stdout and stderr in `log`.

    `writes` is the file it makes; `reason` a pattern (one group) that finds the failure in the log, else the last
    line is the reason. Raises OSError (ENOSPC, EFBIG) on a full disk, UserError with `hint` for every other failure.
    """
    words = [str(part) for part in command]
    name = next(Path(word).name for word in words if word not in (sys.executable, "-m"))
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as file:
        code = subprocess.run(
            words, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT, env=environ,
            preexec_fn=die_with_parent, check=False,
        ).returncode  # fmt: skip
    if code == 0:
        return
    tail = log.read_text(encoding="utf-8", errors="replace")[-4000:]
    if code == -signal.SIGXFSZ or FULL.search(tail):
        number = errno.EFBIG if code == -signal.SIGXFSZ or "File too large" in tail else errno.ENOSPC
        raise OSError(number, os.strerror(number), str(writes))
    lines = re.findall(reason, tail) or tail.strip().splitlines() or ["no output"]
    message = f"{name} failed ({describe_exit(code)}; all of it in {log}): {lines[-1].strip()[:300]}"
    raise UserError(message, exit_hint(code, hint))


def output(
    command: Sequence[object], what: str, hint: str, *, text: str = "", environ: Mapping[str, str] | None = None,
    prepare: Callable[[], None] = die_with_parent, timeout_s: float | None = None,
) -> str:  # fmt: skip
    """The stdout of `command`, which is given `text`.

    Raises UserError, `what` with the last line of stderr or the signal, for a failure and after `timeout_s`.
    """
    try:
        done = subprocess.run(
            [str(part) for part in command], input=text, capture_output=True, text=True, preexec_fn=prepare,
            check=False, timeout=timeout_s, env=environ,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise UserError(f"{what} took more than {timeout_s:.0f} s") from None
    if code := done.returncode:
        lines = done.stderr.strip().splitlines() if code > 0 else []
        told = lines[-1].removeprefix("cartlm: error: ") if lines else describe_exit(code)
        raise UserError(f"{what}: {told}", exit_hint(code, hint))
    return done.stdout
