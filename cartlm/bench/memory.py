"""Memory of this process by the kernel's own account (/proc/self/status), in MiB.

Resident memory counts the pages of the mapped model file that were touched, so a file that several processes
share is counted in each, and a model grows into it with use (llama.cpp issue 864). Hence the named parts:
`rss_anon` is what only this process holds, `rss_file` what is mapped from files.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cartlm.errors import UserError

STATUS = Path("/proc/self/status")
CLEAR = Path("/proc/self/clear_refs")
FIELDS = {"VmRSS": "rss_mib", "VmHWM": "peak_rss_mib", "RssAnon": "rss_anon_mib", "RssFile": "rss_file_mib"}


@dataclass(frozen=True)
class Memory:
    """MiB; the peak is over the life of the process, or since `reset_peak`."""

    rss_mib: float
    peak_rss_mib: float
    rss_anon_mib: float
    rss_file_mib: float


def now(status: Path = STATUS) -> Memory:
    """This process's memory now. Raises UserError without a Linux /proc.

    VmHWM, not getrusage's ru_maxrss: the latter is inherited over exec from the process that started this one.
    """
    try:
        lines = status.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise UserError(
            f"{status} cannot be read ({error.strerror}): memory is measured on Linux only", ""
        ) from None
    pairs = [line.partition(":") for line in lines]
    found = {FIELDS[key]: int(value.split()[0]) / 1024 for key, _, value in pairs if key in FIELDS}
    missing = sorted(set(FIELDS.values()) - found.keys())
    if missing:
        raise UserError(
            f"{status} lacks {', '.join(missing)}: a kernel older than 4.5?", "run on a newer Linux"
        )
    return Memory(**found)


def reset_peak(clear: Path = CLEAR) -> bool:
    """Let the peak begin anew at the memory of now, so that load and run have one each; False where that cannot be
    done (kernel documentation, filesystems/proc, clear_refs 5).
    """
    try:
        clear.write_text("5", encoding="ascii")
    except OSError:
        return False
    return True
