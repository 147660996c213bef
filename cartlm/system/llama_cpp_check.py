"""Does a build of llama.cpp work on this CPU? Each type of GGUF that we ship is made, loaded and asked for real.

    python3 -I cartlm/system/llama_cpp_check.py [--proven | --settle] .venv/llama.cpp

Whatever may die runs in child processes. Answers are compared with those of the same weights in float32, which other
code computes. Standard library only: docker/llama_cpp.sh calls this before any package is installed, `cartlm doctor` at
any time, make in an image before the first run. Without an option it looks only where the build was not yet proven on
this kind of CPU.

--proven   only report by the exit code whether it was
--settle   remove the variants that die from a portable build; exit with 3 and the reason where another build may work,
           a portable one, and with 4 where nothing is left to leave out
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
import resource
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

CHILD = Path(__file__).resolve().with_name("llama_cpp_probe.py")
TIMEOUT_S = 300
FAULTS = (signal.SIGILL, signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGABRT, signal.SIGTRAP)
WRONG = 3  # exit code of the child: it lives, and answers wrongly
REBUILD, HOPELESS = 3, 4  # exit codes of --settle


@dataclass(frozen=True)
class Verdict:
    """`reason` is empty where the build works; `fault`: the build's own, so other code may work on this CPU."""

    reason: str = ""
    fault: bool = False
    variant: str = ""  # of the CPU code that ran: `native`, or a portable build's


def check(prefix: Path) -> Verdict:
    """Make, load and ask a small model of each type with the build in `prefix`; some seconds.

    What works is remembered, where the cache can be written, until it fails.
    """
    verdict, mark = _try(prefix), _mark(prefix)
    with contextlib.suppress(OSError):
        if verdict.reason:
            mark.unlink()
        else:
            mark.parent.mkdir(parents=True, exist_ok=True)
            mark.touch()
    return verdict


def _try(prefix: Path) -> Verdict:
    with tempfile.TemporaryDirectory(prefix="llama.cpp-check-") as folder:
        output, verdict = _run([sys.executable, "-I", CHILD, prefix, folder], prefix, "the Python binding")
        steps: dict[str, str] = {}  # the last of each: variant, doing, wrong
        for line in output.splitlines():
            steps |= json.loads(line) if line.startswith("{") else {}
        variant = steps.get("variant", "")
        if verdict.reason:
            reason = f"{verdict.reason}, {steps.get('doing', 'loading the library')}"
            return Verdict(steps.get("wrong", reason), verdict.fault, variant)
        bench, threads = prefix / "bin/llama-bench", min(2, os.cpu_count() or 1)
        for model in sorted(Path(folder).glob("*.gguf")) if bench.exists() else ():
            command = [bench, "-m", model, "-p", 45, "-n", 3, "-r", 1, "-t", threads, "-ngl", 0]
            _, verdict = _run(command, prefix, "llama-bench")
            if verdict.reason:
                return Verdict(f"{verdict.reason}, measuring {model.stem}", verdict.fault, variant)
        return Verdict(variant=variant)


def _run(command: Sequence[object], prefix: Path, name: str) -> tuple[str, Verdict]:
    """A child's output, and how it ended. It runs in the library's folder, where portable builds look for variants."""
    environ = {**os.environ, "LLAMA_CPP_LIB_PATH": str(prefix / "lib"), "OMP_WAIT_POLICY": "passive"}
    try:
        done = subprocess.run(
            [str(part) for part in command], cwd=prefix / "lib", env=environ, stdin=subprocess.DEVNULL,
            capture_output=True, text=True, errors="replace", timeout=TIMEOUT_S,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_CORE, (0, 0)),
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return "", Verdict(f"{name} takes more than {TIMEOUT_S} s")
    except OSError as error:
        return "", Verdict(f"{name}: {error}")
    if done.returncode < 0:
        killer = signal.Signals(-done.returncode)
        return done.stdout, Verdict(f"{name} was killed by {killer.name}", killer in FAULTS)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        return done.stdout, Verdict(f"{name} fails ({last[:200]})", done.returncode == WRONG)
    return done.stdout, Verdict()


def settle(prefix: Path) -> None:
    """Check, and take from a portable build the variants that die until one works; build.json records them.

    Exits with REBUILD after the reason on stdout where a native build dies; after one line where nothing is left to
    leave out (HOPELESS), or where the check itself fails.
    """
    while (verdict := check(prefix)).reason:
        info = json.loads((prefix / "build.json").read_text(encoding="utf-8"))
        if not verdict.fault:
            _stop(f"cannot be checked: {verdict.reason}", "repair that, then run it again")
        if info["kind"] == "native":
            print(verdict.reason)
            sys.exit(REBUILD)
        if not leave_out(prefix, info, verdict):
            even = f" even without {', '.join(info['without'])}" if info.get("without") else ""
            what = f"does not work on this CPU{even}: {verdict.reason}"
            _stop(what, "try another compiler: CC=clang CXX=clang++ docker/llama_cpp.sh", HOPELESS)


def _stop(what: str, hint: str, code: int = 2) -> NoReturn:
    print(f"llama.cpp {what}; {hint}", file=sys.stderr, flush=True)
    sys.exit(code)


def cpuinfo() -> str:
    """The text of /proc/cpuinfo; empty where there is none."""
    with contextlib.suppress(OSError):
        return Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    return ""


def leave_out(prefix: Path, info: dict[str, Any], verdict: Verdict) -> bool:
    """Take the variant that ran from a portable build; False if none would be left."""
    libraries = list((prefix / "lib").glob("libggml-cpu-*.so"))
    doomed = prefix / f"lib/libggml-cpu-{verdict.variant}.so"
    if libraries == [doomed] or doomed not in libraries:
        return False
    doomed.unlink()
    info["without"] = [*info.get("without", []), verdict.variant]
    info["reason"] = info.get("reason") or verdict.reason
    new = prefix / "build.json.new"
    new.write_text(json.dumps(info, indent=2) + "\n", encoding="utf-8")
    new.replace(prefix / "build.json")
    print(f"llama_cpp.sh: {verdict.reason}: going on without {verdict.variant}", file=sys.stderr, flush=True)
    return True


def _mark(prefix: Path) -> Path:
    """The file that exists once this build was proven on this kind of CPU."""
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    root = os.environ.get("CARTLM_CACHE") or f"{home}/cartlm"
    names = ("model name", "CPU part", "flags", "Features")
    kind = sorted({line for line in cpuinfo().splitlines() if line.startswith(names)})
    key = (prefix / "build.json").read_bytes() + "\n".join(kind or [platform.platform()]).encode()
    return Path(root) / "llama.cpp/proven" / hashlib.sha256(key).hexdigest()[:16]


def main(arguments: list[str]) -> None:
    options = {each for each in arguments if each.startswith("--")}
    default = os.environ.get("CARTLM_LLAMA_CPP", f"{sys.prefix}/llama.cpp")
    prefix = Path(next((each for each in arguments if each not in options), default)).resolve()
    if not (prefix / "build.json").is_file():
        _stop(f"is not in {prefix}", "make setup")
    proven = _mark(prefix).exists()
    if "--proven" in options:
        sys.exit(not proven)
    if "--settle" in options:
        settle(prefix)
    elif not proven and (reason := check(prefix).reason):
        _stop(f"in {prefix} does not work on this CPU: {reason}", "make doctor")


if __name__ == "__main__":
    main(sys.argv[1:])
