"""The machine, from fake trees of /proc and /sys/fs/cgroup."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import psutil
import pytest

from cartlm.errors import UserError
from cartlm.system import cpu_limits, machine

GROUPS_V1 = "5:cpuset:/\n4:memory:{0}\n3:cpu,cpuacct:{0}\n0::/\n"


CPUINFO = """processor\t: {n}
model name\t: Toy 9000
flags\t\t: fpu sse4_2 avx avx2 fma f16c {more}
"""


def tree(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return root


def v2(root: Path, group: str, files: dict[str, str]) -> Path:
    mount = "sys/fs/cgroup/"
    return tree(
        root,
        {
            "proc/self/cgroup": f"0::{group}\n",
            mount + "cgroup.controllers": "cpu memory",
            **{mount + k: v for k, v in files.items()},
        },
    )


def v1(root: Path, group: str, files: dict[str, str]) -> Path:
    mount = "sys/fs/cgroup/"
    return tree(
        root, {"proc/self/cgroup": GROUPS_V1.format(group), **{mount + k: v for k, v in files.items()}}
    )


@pytest.mark.parametrize(
    ("group", "files", "quota", "threads"),
    [
        ("/", {"cpu.max": "max 100000"}, None, 8),
        ("/", {}, None, 8),  # the root group of a host has no cpu.max
        ("/", {"cpu.max": "50000 100000"}, 0.5, 1),
        ("/", {"cpu.max": "350000 100000\n"}, 3.5, 3),
        ("/", {"cpu.max": "9900000 100000"}, 99, 8),
        ("/a/b", {"a/b/cpu.max": "max 100000", "a/cpu.max": "200000 100000"}, 2, 2),
        ("/a/b", {"a/b/cpu.max": "100000 50000", "a/cpu.max": "600000 100000"}, 2, 2),
        ("/docker/0123", {"cpu.max": "150000 100000"}, 1.5, 1),  # the host's path, seen in a container
        ("/../../x", {"cpu.max": "400000 100000"}, 4, 4),  # outside this cgroup namespace
    ],
)
def test_quota_v2(
    tmp_path: Path, group: str, files: dict[str, str], quota: float | None, threads: int
) -> None:
    root = v2(tmp_path, group, files)
    assert cpu_limits.cpu_quota(root) == quota
    assert cpu_limits.threads(root, cpus=8) == threads


@pytest.mark.parametrize(
    ("group", "files", "quota", "threads"),
    [
        ("/", {"cpu,cpuacct/cpu.cfs_quota_us": "-1", "cpu,cpuacct/cpu.cfs_period_us": "100000"}, None, 8),
        ("/", {"cpu,cpuacct/cpu.cfs_quota_us": "50000", "cpu,cpuacct/cpu.cfs_period_us": "100000"}, 0.5, 1),
        ("/", {"cpu/cpu.cfs_quota_us": "250000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 2.5, 2),
        (
            "/k/pod",
            {
                "cpu/k/pod/cpu.cfs_quota_us": "-1", "cpu/k/pod/cpu.cfs_period_us": "100000",
                "cpu/k/cpu.cfs_quota_us": "300000", "cpu/k/cpu.cfs_period_us": "100000",
            },
            3, 3,
        ),
        ("/docker/0123", {"cpu/cpu.cfs_quota_us": "100000", "cpu/cpu.cfs_period_us": "100000"}, 1, 1),
    ],
)  # fmt: skip
def test_quota_v1(
    tmp_path: Path, group: str, files: dict[str, str], quota: float | None, threads: int
) -> None:
    root = v1(tmp_path, group, files)
    assert cpu_limits.cpu_quota(root) == quota
    assert cpu_limits.threads(root, cpus=8) == threads


def test_hybrid_reads_both(tmp_path: Path) -> None:
    """v1 controllers beside a v2 tree that has none of them; and v2 with the limit, where v1 has the memory."""
    root = v1(tmp_path, "/x", {"cpu/x/cpu.cfs_quota_us": "200000", "cpu/x/cpu.cfs_period_us": "100000"})
    tree(
        root,
        {"sys/fs/cgroup/unified/cgroup.controllers": "", "sys/fs/cgroup/unified/cpu.stat": "usage_usec 5"},
    )
    assert cpu_limits.cpu_quota(root) == 2
    assert machine.throttling(root) == {}
    tree(root, {"sys/fs/cgroup/unified/cpu.max": "100000 100000"})
    assert cpu_limits.cpu_quota(root) == 1


def test_no_cgroups(tmp_path: Path) -> None:
    assert cpu_limits.cpu_quota(tmp_path) is None
    assert machine.memory_limit(tmp_path) is None
    assert machine.throttling(tmp_path) == {}
    assert cpu_limits.threads(tmp_path, cpus=3) == 3


def test_memory_limit(tmp_path: Path) -> None:
    root = v2(tmp_path / "2", "/a", {"a/memory.max": "max", "memory.max": str(2**30)})
    assert machine.memory_limit(root) == 2**30
    root = v1(tmp_path / "1", "/a", {"memory/a/memory.limit_in_bytes": "9223372036854771712"})
    assert machine.memory_limit(root) is None
    tree(root, {"sys/fs/cgroup/memory/memory.limit_in_bytes": str(2**31)})
    assert machine.memory_limit(root) == 2**31


def test_throttling(tmp_path: Path) -> None:
    stat = "usage_usec 9\nnr_periods 10\nnr_throttled 4\nthrottled_usec 2500000\n"
    root = v2(tmp_path / "2", "/a", {"a/cpu.stat": stat, "cpu.stat": "nr_throttled 1\nthrottled_usec 500000"})
    assert machine.throttling(root) == {"throttled_periods": 5, "throttled_s": 3.0}
    root = v1(
        tmp_path / "1", "/", {"cpu/cpu.stat": "nr_periods 1\nnr_throttled 3\nthrottled_time 1500000000\n"}
    )
    assert machine.throttling(root) == {"throttled_periods": 3, "throttled_s": 1.5}


def toy(root: Path, cpus: int = 8, more: str = "avx512f avx512_vnni") -> Path:
    blocks = [CPUINFO.format(n=n, more=more) for n in range(cpus)]
    return tree(root, {"proc/cpuinfo": "\n".join(blocks)})


@pytest.fixture(autouse=True)
def memory_24_gib(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(total=24 * 2**30))


@pytest.fixture
def native_build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CARTLM_LLAMA_CPP", str(tmp_path))
    build = {"kind": "native", "flags": ["GGML_NATIVE=ON"], "compiler": "c++ 12"}
    tree(tmp_path, {"build.json": json.dumps(build)})


def test_processor(tmp_path: Path) -> None:
    root = toy(tmp_path)
    assert machine.cpu_model(root) == "Toy 9000"
    assert machine.instructions(root) == ["sse4_2", "avx", "f16c", "fma", "avx2", "avx512f", "avx512_vnni"]
    arm = tree(
        tmp_path / "arm",
        {"proc/cpuinfo": "processor : 0\nFeatures : fp asimd asimddp i8mm\nCPU part : 0xd40\n"},
    )
    assert machine.cpu_model(arm) == "CPU part 0xd40"
    assert machine.instructions(arm) == ["asimd", "asimddp", "i8mm"]


def test_an_image_of_the_other_target_measures_nothing() -> None:
    for target, other in (("cpu", "gpu"), ("gpu", "cpu")):
        machine.require_target(target, environ={})
        machine.require_target(target, environ={"CARTLM_IMAGE": target})
        with pytest.raises(UserError, match=f"image for {other}.*; make bench TARGET={target}"):
            machine.require_target(target, environ={"CARTLM_IMAGE": other})


def test_runtime(tmp_path: Path) -> None:
    assert machine.runtime(tmp_path, {}) == "native"
    tree(tmp_path, {".dockerenv": ""})
    assert machine.runtime(tmp_path, {}) == "container"
    assert machine.runtime(tmp_path, {"CARTLM_IMAGE": "cpu"}) == "image"
    tree(tmp_path, {"proc/2/comm": "kthreadd\n"})
    assert machine.runtime(tmp_path, {}) == "native"  # a machine made from an image


@pytest.mark.usefixtures("native_build")
def test_fingerprint(tmp_path: Path) -> None:
    root = toy(tmp_path / "a")
    found = machine.fingerprint(root, {})
    assert found["name"] == f"Toy 9000 x{cpu_limits.affinity()}, 24 GiB, native"
    assert found["build"] == "native GGML_NATIVE=ON"
    assert machine.fingerprint(toy(tmp_path / "b"), {}) == found
    hashes = {found["hash"]}
    hashes.add(machine.fingerprint(toy(tmp_path / "c", more="avx512f"), {})["hash"])
    hashes.add(machine.fingerprint(root, {"CARTLM_IMAGE": "cpu"})["hash"])
    v2(root, "/", {"cpu.max": "50000 100000"})
    assert "(quota 0.5)" in machine.fingerprint(root, {})["name"]
    hashes.add(machine.fingerprint(root, {})["hash"])
    v2(root, "/", {"cpu.max": "max", "memory.max": str(4 * 2**30)})
    assert "4 GiB" in machine.fingerprint(root, {})["name"]
    hashes.add(machine.fingerprint(root, {})["hash"])
    assert len(hashes) == 5


@pytest.mark.usefixtures("native_build")
def test_amx_is_another_machine(tmp_path: Path) -> None:
    """The name of the processor and all else are the same: one virtual machine shows AMX, the other hides it."""
    avx512 = "avx512f avx512_vnni avx512_bf16"
    plain = toy(tmp_path / "plain", more=avx512)
    amx = toy(tmp_path / "amx", more=f"{avx512} amx_tile amx_int8 amx_bf16")
    assert machine.fingerprint(plain, {})["name"] == machine.fingerprint(amx, {})["name"]
    assert machine.fingerprint(plain, {})["hash"] != machine.fingerprint(amx, {})["hash"]
    assert "amx_int8" in machine.details(amx, {})["instructions"]


def test_what_a_build_left_out_is_another_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = toy(tmp_path / "cpu", more="avx512f amx_tile amx_int8")
    monkeypatch.setenv("CARTLM_LLAMA_CPP", str(tmp_path))
    build = {"kind": "portable", "flags": ["GGML_NATIVE=OFF", "LLAMA_X=1"], "compiler": "c++ 12"}
    found = {}
    for name, more in {
        "before": {},  # builds of an older script
        "whole": {"without": [], "reason": "", "mended": "AMX tile configuration"},
        "amx": {"without": ["amx"], "reason": "killed by SIGSEGV"},
        "avx512": {"without": ["amx", "avx512"], "reason": "killed by SIGSEGV"},
        "again": {"without": ["amx"], "reason": "killed by SIGILL"},
    }.items():
        tree(tmp_path, {"build.json": json.dumps(build | more)})
        found[name] = machine.fingerprint(root, {}), machine.details(root, {})
    assert found["before"][0] == found["whole"][0]
    assert found["amx"][0] == found["again"][0]
    assert len({fingerprint["hash"] for fingerprint, _ in found.values()}) == 3
    assert found["amx"][0]["build"] == "portable without amx GGML_NATIVE=OFF"
    assert found["amx"][1]["build_without"] == "amx"
    assert found["amx"][1]["build_reason"] == "killed by SIGSEGV"
    assert "build_without" not in found["whole"][1]


def test_fingerprint_without_llama_cpp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A training image has none, and its stages record their machine too."""
    monkeypatch.setenv("CARTLM_LLAMA_CPP", str(tmp_path))
    assert machine.fingerprint(toy(tmp_path), {}).keys() == {"name", "hash"}


class FakeNvml(ModuleType):
    """As much of pynvml as is called, of one card that does not tell its power limit."""

    class NVMLError(Exception):
        pass

    def nvmlInit(self) -> None: ...

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        if index:
            raise self.NVMLError("Invalid Argument")
        return index

    def nvmlDeviceGetName(self, handle: int) -> str:
        return "Toy H9000"

    def nvmlSystemGetDriverVersion(self) -> str:
        return "999.1"

    def nvmlDeviceGetMemoryInfo(self, handle: int) -> SimpleNamespace:
        return SimpleNamespace(total=80 * 2**30)

    def nvmlDeviceGetEnforcedPowerLimit(self, handle: int) -> int:
        raise self.NVMLError("Not Supported")


def test_a_card(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a stand-in for NVIDIA's binding: this machine has no card."""
    monkeypatch.setitem(sys.modules, "pynvml", FakeNvml("pynvml"))
    assert machine.card() == {"gpu": "Toy H9000", "gpu_driver": "999.1", "gpu_memory_gib": 80.0}
    assert machine.card(1) == {}
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert machine.card() == {}


def test_this_machine() -> None:
    found = machine.details()
    assert all(isinstance(value, str | int | float) for value in found.values())
    assert found["threads"] <= found["affinity_cpus"] <= found["cores_logical"]
    assert found["ram_gib"] == 24
    assert found["llama_cpp_python"]


def test_busy_seconds(tmp_path: Path) -> None:
    tree(tmp_path, {"proc/stat": "cpu  100 20 30 9999 8888 4 5 6 7 8\ncpu0 1 2 3 4 5 6 7 8 9 10\n"})
    ticks = os.sysconf("SC_CLK_TCK")
    assert machine.busy_seconds(root=tmp_path) == (165 / ticks, 6 / ticks, 165 / ticks)
    assert machine.busy_seconds(root=tmp_path / "none") == ()
    assert machine.busy_seconds({0}, tmp_path) == (27 / ticks, 8 / ticks, 165 / ticks)
    assert machine.busy_seconds({0, 1}, tmp_path) == ()
    before = machine.busy_seconds()
    sum(i * i for i in range(3_000_000))
    after = machine.busy_seconds()
    assert after[0] > before[0]
    assert after[1] >= before[1]
