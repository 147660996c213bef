"""Does a build of llama.cpp work on this CPU? Each type of GGUF that we ship is made, loaded and asked for real.

    python3 -I cartlm/system/llama_cpp_check.py [--once | --proven | --settle] .venv/llama.cpp

Everything that may die runs in child processes. Answers are held against those of the same weights in float32, which
other code computes. Standard library only: docker/llama_cpp.sh calls this before any package is installed, `cartlm
doctor` at any time, make in an image before the first run.

--once     only where it was not yet proven on this kind of CPU
--proven   only say whether it was, by the exit code
--settle   of a portable build take away what dies; of a native one print why it dies, which instruction sets to leave
           out and cmake's flags for that, a line each, and exit with 3; exit with 4 where nothing is left to leave out
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
REBUILD, HOPELESS = 3, 4  # of --settle

# What is left out when a build dies, first to last: ggml's options with the flags of /proc/cpuinfo that each needs,
# and the variants of a portable build that have it (ggml/src/CMakeLists.txt).
SETS = {
    "amx": {"AMX_TILE": "amx_tile", "AMX_INT8": "amx_int8", "AMX_BF16": "amx_bf16"},
    "avx512": {
        "AVX512": "avx512f avx512cd avx512vl avx512dq avx512bw", "AVX512_VBMI": "avx512vbmi",
        "AVX512_VNNI": "avx512_vnni", "AVX512_BF16": "avx512_bf16",
    },
    "avx2": {"AVX2": "avx2", "AVX_VNNI": "avx_vnni", "FMA": "fma", "BMI2": "bmi2"},
    "avx": {"AVX": "avx", "F16C": "f16c"},
    "sse42": {"SSE42": "sse4_2"},
}  # fmt: skip
VARIANTS = {
    "amx": ("sapphirerapids",),
    "avx512": ("skylakex", "cannonlake", "cascadelake", "icelake", "cooperlake", "zen4"),
    "avx2": ("haswell", "alderlake"),
    "avx": ("sandybridge", "ivybridge", "piledriver"),
    "sse42": ("sse42",),
}


@dataclass(frozen=True)
class Verdict:
    """`reason` is empty where the build works; `fault`: the build's own, so that one without an instruction set may work."""

    reason: str = ""
    fault: bool = False
    variant: str = ""  # of the CPU code that ran: `native`, or a portable build's


def check(prefix: Path) -> Verdict:
    """Make, load and ask a small model of each type with the build in `prefix`; some seconds."""
    with tempfile.TemporaryDirectory(prefix="llama.cpp-check-") as place:
        folder = Path(place)
        command = [sys.executable, "-I", str(CHILD), str(prefix), place]
        said, verdict = _run(command, prefix, "the Python binding")
        steps = [json.loads(line) for line in said.splitlines() if line.startswith("{")]
        variant = next((step["variant"] for step in reversed(steps) if "variant" in step), "")
        if verdict.reason:
            doing = next(
                (step["doing"] for step in reversed(steps) if "doing" in step), "loading the library"
            )
            wrong = next((step["wrong"] for step in steps if "wrong" in step), "")
            return Verdict(wrong or f"{verdict.reason}, {doing}", verdict.fault, variant)
        bench, threads = prefix / "bin/llama-bench", str(min(2, os.cpu_count() or 1))
        for model in sorted(folder.glob("*.gguf")) if bench.exists() else ():
            command = [
                str(bench),
                "-m",
                str(model),
                "-p",
                "45",
                "-n",
                "3",
                "-r",
                "1",
                "-t",
                threads,
                "-ngl",
                "0",
            ]
            _, verdict = _run(command, prefix, "llama-bench")
            if verdict.reason:
                return Verdict(f"{verdict.reason}, measuring {model.stem}", verdict.fault, variant)
        return Verdict(variant=variant)


def _run(command: Sequence[str], prefix: Path, who: str) -> tuple[str, Verdict]:
    """What a child said, and its end in words. In the library's folder, where portable builds look for variants."""
    environ = {**os.environ, "LLAMA_CPP_LIB_PATH": str(prefix / "lib"), "OMP_WAIT_POLICY": "passive"}
    try:
        done = subprocess.run(
            command, cwd=prefix / "lib", env=environ, stdin=subprocess.DEVNULL, capture_output=True, text=True,
            errors="replace", timeout=TIMEOUT_S, preexec_fn=_no_core,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return "", Verdict(f"{who} took more than {TIMEOUT_S} s")
    except OSError as error:
        return "", Verdict(f"{who} does not start ({error.strerror})")
    if done.returncode < 0:
        number = -done.returncode
        name = (
            signal.Signals(number).name
            if number in signal.Signals.__members__.values()
            else f"signal {number}"
        )
        return done.stdout, Verdict(f"{who} was killed by {name}", -done.returncode in FAULTS)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        return done.stdout, Verdict(f"{who} fails ({last[:200]})", done.returncode == WRONG)
    return done.stdout, Verdict()


def _no_core() -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def settle(prefix: Path) -> list[str]:
    """Check, and take from a portable build the variants that die until one works; its build.json tells.

    Returns nothing, or of a native build why it dies, all instruction sets to leave out, and cmake's flags for that.
    Raises SystemExit after one line where nothing is left to leave out, or where the check itself fails.
    """
    while (verdict := check(prefix)).reason:
        info = json.loads((prefix / "build.json").read_text(encoding="utf-8"))
        without = info.get("without", [])
        if not verdict.fault:
            _stop(f"cannot be checked: {verdict.reason}", "mend that, then run it again")
        if info["kind"] == "native" and (left := next_set(without)):
            without.append(left)
            return [
                verdict.reason,
                " ".join(without),
                " ".join(f"-D{flag}" for flag in native_flags(without)),
            ]
        if info["kind"] == "native" or not leave_out(prefix, info, verdict):
            said = f" even without {', '.join(without)}" if without else ""
            what = f"does not work on this CPU{said}: {verdict.reason}"
            _stop(what, "try another compiler: CC=clang CXX=clang++ docker/llama_cpp.sh", HOPELESS)
    remember(prefix)
    return []


def _stop(what: str, hint: str, code: int = 2) -> NoReturn:
    print(f"llama.cpp {what}; {hint}", file=sys.stderr, flush=True)
    sys.exit(code)


def cpuinfo() -> str:
    """What the kernel says of the CPU; empty where there is no /proc."""
    try:
        return Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def cpu_flags(said: str) -> set[str] | None:
    """Instruction sets of an x86 CPU by the kernel's names; None of another one."""
    found = (line for line in said.splitlines() if line.startswith("flags"))
    return next((set(line.partition(":")[2].split()) for line in found), None)


def options(without: Sequence[str], flags: set[str]) -> dict[str, bool]:
    """ggml's options for instruction sets: which this CPU has, and `without` does not name."""
    return {
        option: name not in without and set(needs.split()) <= flags
        for name, listed in SETS.items()
        for option, needs in listed.items()
    }


def next_set(without: Sequence[str], said: str | None = None) -> str:
    """What to leave out next; empty where nothing is left. `native`: whatever it is that a CPU without a table has."""
    flags = cpu_flags(cpuinfo() if said is None else said)
    if flags is None:
        return "" if "native" in without else "native"
    have = options((), flags)
    return next(
        (name for name in SETS if name not in without and any(have[option] for option in SETS[name])), ""
    )


def native_flags(without: Sequence[str], said: str | None = None) -> list[str]:
    """ggml's options for a build for this CPU without some of its instruction sets."""
    flags = cpu_flags(cpuinfo() if said is None else said)
    found = {} if flags is None else options(without, flags)
    return ["GGML_NATIVE=OFF", *(f"GGML_{name}={'ON' if on else 'OFF'}" for name, on in found.items())]


def leave_out(prefix: Path, info: dict[str, Any], verdict: Verdict) -> bool:
    """Take the variant that ran, and all with its instruction set, from a portable build; whether others are left."""
    name = next((name for name, variants in VARIANTS.items() if verdict.variant in variants), verdict.variant)
    doomed = [f"libggml-cpu-{variant}.so" for variant in VARIANTS.get(name, (verdict.variant,))]
    files = [path for path in (prefix / "lib").glob("libggml-cpu-*.so") if path.name in doomed]
    if not files or len(files) == len(list((prefix / "lib").glob("libggml-cpu-*.so"))):
        return False
    for path in files:
        path.unlink()
    info["without"] = [*info.get("without", []), name]
    info["left_out"] = sorted(
        [*info.get("left_out", []), *(path.stem[len("libggml-cpu-") :] for path in files)]
    )
    info["reason"] = info.get("reason") or verdict.reason
    new = prefix / "build.json.new"
    new.write_text(json.dumps(info, indent=2) + "\n", encoding="utf-8")
    new.replace(prefix / "build.json")
    print(f"llama_cpp.sh: {verdict.reason}: going on without {name}", file=sys.stderr, flush=True)
    return True


def _mark(prefix: Path) -> Path:
    """The file that says: this build was proven on this kind of CPU."""
    root = os.environ.get("CARTLM_CACHE") or os.path.join(
        os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache"), "cartlm"
    )
    lines = (cpuinfo() or platform.platform()).splitlines()
    names = ("model name", "CPU part", "flags", "Features")
    kind = sorted({line for line in lines if line.startswith(names)}) or lines
    key = (prefix / "build.json").read_bytes() + "\n".join(kind).encode()
    return Path(root) / "llama.cpp/proven" / hashlib.sha256(key).hexdigest()[:16]


def remember(prefix: Path) -> None:
    """Nothing happens where the cache cannot be written: it is proven again the next time."""
    with contextlib.suppress(OSError):
        mark = _mark(prefix)
        mark.parent.mkdir(parents=True, exist_ok=True)
        mark.touch()


def forget(prefix: Path) -> None:
    with contextlib.suppress(OSError):
        _mark(prefix).unlink()


def main(arguments: list[str]) -> None:
    named = [each for each in arguments if not each.startswith("--")]
    prefix = Path(
        named[0] if named else os.environ.get("CARTLM_LLAMA_CPP", f"{sys.prefix}/llama.cpp")
    ).resolve()
    if not (prefix / "build.json").is_file():
        _stop(f"is not in {prefix}", "make setup")
    if "--proven" in arguments:
        sys.exit(not _mark(prefix).exists())
    if "--once" in arguments and _mark(prefix).exists():
        return None
    if "--settle" in arguments:
        if plan := settle(prefix):
            print("\n".join(plan))
            sys.exit(REBUILD)
        return None
    if reason := check(prefix).reason:
        forget(prefix)
        _stop(f"in {prefix} does not work on this CPU: {reason}", "make doctor")
    remember(prefix)


if __name__ == "__main__":
    main(sys.argv[1:])
