"""Does a build of llama.cpp work on this CPU? Each type of GGUF that we ship is made, loaded and asked for real.

    python3 -I cartlm/system/llama_cpp_check.py [--once | --proven | --settle] .venv/llama.cpp

Whatever may die runs in child processes. Answers are compared with those of the same weights in float32, which other
code computes. Standard library only: docker/llama_cpp.sh calls this before any package is installed, `cartlm doctor` at
any time, make in an image before the first run.

--once     only where it was not yet proven on this kind of CPU
--proven   only report by the exit code whether it was
--settle   remove from a portable build what dies; of a native one print why it dies, which instruction sets to leave
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
    """`reason` is empty where the build works; `fault`: the build's own, so one without an instruction set may work."""

    reason: str = ""
    fault: bool = False
    variant: str = ""  # of the CPU code that ran: `native`, or a portable build's


def check(prefix: Path) -> Verdict:
    """Make, load and ask a small model of each type with the build in `prefix`; some seconds."""
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
        return "", Verdict(f"{name} took more than {TIMEOUT_S} s")
    except OSError as error:
        return "", Verdict(f"{name} does not start ({error.strerror})")
    if done.returncode < 0:
        number = -done.returncode
        known = number in signal.Signals.__members__.values()
        killer = signal.Signals(number).name if known else f"signal {number}"
        return done.stdout, Verdict(f"{name} was killed by {killer}", number in FAULTS)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        return done.stdout, Verdict(f"{name} fails ({last[:200]})", done.returncode == WRONG)
    return done.stdout, Verdict()


def settle(prefix: Path) -> list[str]:
    """Check, and take from a portable build the variants that die until one works; build.json records them.

    Returns nothing, or of a native build why it dies, all instruction sets to leave out, and cmake's flags for that.
    Raises SystemExit after one line where nothing is left to leave out, or where the check itself fails.
    """
    while (verdict := check(prefix)).reason:
        info = json.loads((prefix / "build.json").read_text(encoding="utf-8"))
        without = info.get("without", [])
        if not verdict.fault:
            _stop(f"cannot be checked: {verdict.reason}", "repair that, then run it again")
        if info["kind"] == "native" and (left := next_set(without)):
            without.append(left)
            flags = " ".join(f"-D{flag}" for flag in native_flags(without))
            return [verdict.reason, " ".join(without), flags]
        if info["kind"] == "native" or not leave_out(prefix, info, verdict):
            even = f" even without {', '.join(without)}" if without else ""
            what = f"does not work on this CPU{even}: {verdict.reason}"
            _stop(what, "try another compiler: CC=clang CXX=clang++ docker/llama_cpp.sh", HOPELESS)
    remember(prefix)
    return []


def _stop(what: str, hint: str, code: int = 2) -> NoReturn:
    print(f"llama.cpp {what}; {hint}", file=sys.stderr, flush=True)
    sys.exit(code)


def cpuinfo() -> str:
    """The text of /proc/cpuinfo; empty where there is none."""
    try:
        return Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def cpu_flags(text: str | None = None) -> set[str] | None:
    """Instruction sets of an x86 CPU by the kernel's names; None of another one."""
    lines = (cpuinfo() if text is None else text).splitlines()
    return next((set(line.partition(":")[2].split()) for line in lines if line.startswith("flags")), None)


def next_set(without: Sequence[str], text: str | None = None) -> str:
    """What to leave out next; empty where nothing is left. `native`: all that a CPU without a table has."""
    flags = cpu_flags(text)
    if flags is None:
        return "" if "native" in without else "native"
    present = (
        name
        for name, options in SETS.items()
        if any(set(needs.split()) <= flags for needs in options.values())
    )
    return next((name for name in present if name not in without), "")


def native_flags(without: Sequence[str], text: str | None = None) -> list[str]:
    """ggml's options for a build for this CPU without some of its instruction sets."""
    flags = cpu_flags(text)
    if flags is None:
        return ["GGML_NATIVE=OFF"]
    switches = {
        option: name not in without and set(needs.split()) <= flags
        for name, options in SETS.items()
        for option, needs in options.items()
    }
    return ["GGML_NATIVE=OFF", *(f"GGML_{option}={'ON' if on else 'OFF'}" for option, on in switches.items())]


def leave_out(prefix: Path, info: dict[str, Any], verdict: Verdict) -> bool:
    """Take the variant that ran, and all with its instruction set, from a portable build; False if none would be left."""
    name = next((name for name, variants in VARIANTS.items() if verdict.variant in variants), verdict.variant)
    doomed = VARIANTS.get(name, (verdict.variant,))
    libraries = {path.stem[len("libggml-cpu-") :]: path for path in (prefix / "lib").glob("libggml-cpu-*.so")}
    gone = libraries.keys() & set(doomed)
    if not gone or gone == libraries.keys():
        return False
    for variant in gone:
        libraries[variant].unlink()
    info["without"] = [*info.get("without", []), name]
    info["left_out"] = sorted([*info.get("left_out", []), *gone])
    info["reason"] = info.get("reason") or verdict.reason
    new = prefix / "build.json.new"
    new.write_text(json.dumps(info, indent=2) + "\n", encoding="utf-8")
    new.replace(prefix / "build.json")
    print(f"llama_cpp.sh: {verdict.reason}: going on without {name}", file=sys.stderr, flush=True)
    return True


def _mark(prefix: Path) -> Path:
    """The file that exists once this build was proven on this kind of CPU."""
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    root = os.environ.get("CARTLM_CACHE") or f"{home}/cartlm"
    lines = (cpuinfo() or platform.platform()).splitlines()
    names = ("model name", "CPU part", "flags", "Features")
    kind = sorted({line for line in lines if line.startswith(names)}) or lines
    key = (prefix / "build.json").read_bytes() + "\n".join(kind).encode()
    return Path(root) / "llama.cpp/proven" / hashlib.sha256(key).hexdigest()[:16]


def remember(prefix: Path) -> None:
    """Where the cache cannot be written, the build is proven again the next time."""
    with contextlib.suppress(OSError):
        mark = _mark(prefix)
        mark.parent.mkdir(parents=True, exist_ok=True)
        mark.touch()


def forget(prefix: Path) -> None:
    with contextlib.suppress(OSError):
        _mark(prefix).unlink()


def main(arguments: list[str]) -> None:
    options = {each for each in arguments if each.startswith("--")}
    default = os.environ.get("CARTLM_LLAMA_CPP", f"{sys.prefix}/llama.cpp")
    prefix = Path(next((each for each in arguments if each not in options), default)).resolve()
    if not (prefix / "build.json").is_file():
        _stop(f"is not in {prefix}", "make setup")
    proven = _mark(prefix).exists()
    if "--proven" in options:
        sys.exit(not proven)
    if "--once" in options and proven:
        return
    if "--settle" in options:
        if lines := settle(prefix):
            print("\n".join(lines))
            sys.exit(REBUILD)
        return
    if reason := check(prefix).reason:
        forget(prefix)
        _stop(f"in {prefix} does not work on this CPU: {reason}", "make doctor")
    remember(prefix)


if __name__ == "__main__":
    main(sys.argv[1:])
