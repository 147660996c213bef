"""Memory of this process by the kernel's own account (/proc/self/status), in MiB.

Resident memory counts the touched pages of the mapped model file, so several processes each count a file they share,
and a model grows into it with use (llama.cpp issue 864). Hence the parts: `rss_anon` belongs to this process alone,
`rss_file` is mapped from files. (psutil has neither them nor the peak.)
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

    VmHWM, not getrusage's ru_maxrss, which is inherited over exec from the process that started this one.
    """
    try:
        lines = status.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        message = f"{status} cannot be read ({error.strerror}): memory is measured on Linux only"
        raise UserError(message, "") from None
    pairs = [line.partition(":") for line in lines]
    values = {FIELDS[key]: int(value.split()[0]) / 1024 for key, _, value in pairs if key in FIELDS}
    if missing := sorted(set(FIELDS.values()) - values.keys()):
        what = f"{status} lacks {', '.join(missing)}: a kernel older than 4.5?"
        raise UserError(what, "run on a newer Linux")
    return Memory(**values)


def reset_peak(clear: Path = CLEAR) -> bool:
    """Start the peak anew, so that load and run have one each; False where the kernel refuses (filesystems/proc,
    clear_refs 5).
    """
    try:
        clear.write_text("5", encoding="ascii")
    except OSError:
        return False
    return True
