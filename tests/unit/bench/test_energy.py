"""RAPL from trees of plain files, NVML from a module that stands in for its binding.

The trees of tests/fixtures/powercap were CONSTRUCTED after the kernel's documentation and public bug reports, not
recorded: the machine on which these tests were written has no RAPL (nor a GPU). A file has the form in which
`sudo tail -n +1 /sys/class/powercap/intel-rapl*:*/{name,energy_uj,max_energy_range_uj}` prints a real one; to test
with your machine's, put that output there.
"""

from __future__ import annotations

import re
import sys
import types
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from cartlm.bench import energy, publish
from cartlm.bench.energy import Meter, Reading, Watts, figures
from cartlm.bench.plan import Target
from cartlm.errors import UserError
from cartlm.system.meters import available
from tests import ROOT

TREES = ROOT / "tests/fixtures/powercap"
POWERCAP = "sys/class/powercap"


class Machine:
    """A tree of files below `root`, and a clock; `use` lets counters run on, and round."""

    def __init__(self, root: Path, name: str) -> None:
        self.root, self.now = root, 100.0
        for path, text in re.findall(r"^==> /(.+) <==\n(.*)\n", (TREES / f"{name}.txt").read_text(), re.M):
            file = root / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text + "\n")

    def file(self, zone: str, name: str = "energy_uj") -> Path:
        return self.root / POWERCAP / zone / name

    def use(self, seconds: float, **joules: float) -> None:
        self.now += seconds
        for zone, used in joules.items():
            zone = "intel-rapl:" + zone.lstrip("_").replace("_", ":")
            wraps_at = int(self.file(zone, "max_energy_range_uj").read_text())
            value = int(self.file(zone).read_text()) + round(used * 1e6)
            self.file(zone).write_text(f"{value % wraps_at}\n")

    def meter(self, gpu: int | None = None) -> Meter:
        return Meter(self.root, clock=lambda: self.now)


@pytest.fixture
def machine(tmp_path: Path) -> Callable[[str], Machine]:
    return lambda name: Machine(tmp_path, name)


@pytest.mark.parametrize(
    ("tree", "source"),
    [
        ("intel_two_sockets", "RAPL package-0 + package-0/dram + package-1 + package-1/dram"),
        ("intel_laptop", "RAPL package-0 + package-0/dram"),
        ("amd", "RAPL package-0"),
        ("amd_two_dies", "RAPL package-0-die-0"),
    ],
)
def test_each_joule_is_counted_once(machine: Callable[[str], Machine], tree: str, source: str) -> None:
    """On constructed trees: no core, uncore, psys and MMIO zone, and a counter shown for each die is taken once."""
    here = machine(tree)
    assert here.meter().stop().source == source
    assert available(here.root)["energy_cpu"] == source


def test_two_sockets(machine: Callable[[str], Machine]) -> None:
    here = machine("intel_two_sockets")
    meter = here.meter()
    here.use(10, _0=100, _0_0=60, _0_1=20, _1=50, _1_0=30, _1_1=10, _2=400)
    reading = meter.stop()
    assert reading.joules == pytest.approx(180)
    assert (reading.seconds, reading.kind, reading.problem) == (10.0, "measured", "")
    meter = here.meter()  # begins anew
    here.use(2, _1=7)
    assert meter.stop().joules == pytest.approx(7)


def test_counters_wrap_each_at_its_own_range(machine: Callable[[str], Machine]) -> None:
    here = machine("intel_two_sockets")
    here.file("intel-rapl:0").write_text(f"{262143328850 - 30_000_000}\n")
    here.file("intel-rapl:1:1").write_text(f"{65712999613 - 5_000_000}\n")
    meter = here.meter()
    here.use(10, _0=100, _1_1=20)
    assert int(here.file("intel-rapl:0").read_text()) == 70_000_000
    reading = meter.stop()
    assert reading.problem == ""
    assert reading.joules == pytest.approx(120)


def test_samples_in_between_see_every_wrap(machine: Callable[[str], Machine]) -> None:
    """400 W for 400 s is 160 kJ, twice round on AMD."""
    here = machine("amd")
    meter = here.meter()
    for _ in range(20):
        here.use(20, _0=8000)
        meter.sample()
    reading = meter.stop()
    assert (reading.seconds, reading.problem) == (400.0, "")
    assert reading.joules == pytest.approx(160_000)


def test_the_thread_samples(machine: Callable[[str], Machine], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(energy, "SAMPLE_S", 0.001)
    here, sampled, sample = machine("amd"), energy.threading.Event(), Meter.sample
    monkeypatch.setattr(Meter, "sample", lambda meter: (sample(meter), sampled.set()))
    meter = here.meter()
    assert sampled.wait(10)
    assert meter.stop().problem == ""
    assert not any(thread.name == "energy" for thread in energy.threading.enumerate())


def test_a_gap_in_which_a_wrap_may_be_lost_is_a_problem(machine: Callable[[str], Machine]) -> None:
    here = machine("amd")
    meter = here.meter()
    here.use(100, _0=5000)
    assert "not read for 100 s" in meter.stop().problem


def test_a_reset_counter_is_a_problem(machine: Callable[[str], Machine]) -> None:
    here = machine("amd")
    meter = here.meter()
    here.file("intel-rapl:0").write_text("0\n")
    here.use(5, _0=10)
    reading = meter.stop()
    assert "jumped by" in reading.problem
    assert "jumped by" in str(figures([reading], Watts(5.0), 1, 1, 1)["energy_absent"])


@pytest.mark.parametrize(
    ("zone", "name"),
    [
        ("intel-rapl:0", "energy_uj"),
        ("intel-rapl:1:1", "energy_uj"),
        ("intel-rapl:1", "max_energy_range_uj"),
        ("intel-rapl:1", "name"),
    ],
)
def test_a_missing_file_leaves_nothing(machine: Callable[[str], Machine], zone: str, name: str) -> None:
    """A sum without one of its parts would look like a measurement; Docker hides the files, not the zones."""
    here = machine("intel_two_sockets")
    here.file(zone, name).unlink()
    found = available(here.root)
    assert f"No such file or directory: /sys/class/powercap/{zone}/{name};" in found["energy_cpu_absent"]
    assert str(here.root) not in found["energy_cpu_absent"]
    assert "energy_cpu" not in found
    with pytest.raises(UserError, match="No such file"):
        here.meter()


def test_an_unreadable_file_says_what_to_type(
    machine: Callable[[str], Machine], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Root may read every file, so the refusal is played."""
    here, read_text = machine("amd"), Path.read_text

    def refuse(path: Path, *args: str, **kwargs: str) -> str:
        if path.name == "energy_uj":
            raise PermissionError(13, "Permission denied")
        return read_text(path, *args, **kwargs)

    monkeypatch.setattr(Path, "read_text", refuse)
    assert available(here.root)["energy_cpu_absent"] == (
        "RAPL is there but unreadable: Permission denied: /sys/class/powercap/intel-rapl:0/energy_uj; "
        "run: sudo chmod a+r /sys/class/powercap/intel-rapl:*/energy_uj (until the next boot)"
    )


@pytest.mark.parametrize("text", ["", "-5", "12.5", "many"])
def test_nonsense_is_a_reason(machine: Callable[[str], Machine], text: str) -> None:
    here = machine("amd")
    here.file("intel-rapl:0").write_text(text)
    assert f"is {text!r}" in available(here.root)["energy_cpu_absent"]


def test_a_range_of_0_is_a_reason(machine: Callable[[str], Machine]) -> None:
    here = machine("amd")
    here.file("intel-rapl:0", "max_energy_range_uj").write_text("0")
    assert "no telling when it wraps" in available(here.root)["energy_cpu_absent"]


def test_a_counter_that_fails_meanwhile_is_a_problem(machine: Callable[[str], Machine]) -> None:
    here = machine("amd")
    meter = here.meter()
    here.file("intel-rapl:0").unlink()
    here.now += 3
    reading = meter.stop()
    assert "No such file" in reading.problem
    assert list(figures([reading], Watts(5.0), 1, 1, 1)) == ["energy_absent"]


def test_the_folder_that_the_links_lead_to(machine: Callable[[str], Machine]) -> None:
    """docker/compose.rapl.yaml shows that: parts of a package lie in the package's folder, nowhere else."""
    here = machine("intel_two_sockets")
    source = here.meter().stop().source
    folder = here.root / POWERCAP
    for part in sorted(folder.glob("intel-rapl:*:*")):
        part.rename(folder / part.name.rpartition(":")[0] / part.name)
    assert not list(folder.glob("intel-rapl:*:*"))
    assert here.meter().stop().source == source
    assert "dram" in source


def test_no_rapl(tmp_path: Path) -> None:
    for zone, name in (("no-zone", ""), ("intel-rapl-mmio:0", "package-0\n"), ("intel-rapl:0", "psys\n")):
        assert "no RAPL: /sys/class/powercap has no" in available(tmp_path)["energy_cpu_absent"]
        (tmp_path / POWERCAP / zone).mkdir(parents=True)
        (tmp_path / POWERCAP / zone / "name").write_text(name)
    assert "no RAPL: /sys/class/powercap has no" in available(tmp_path)["energy_cpu_absent"]


def test_this_machine_has_a_meter_or_a_reason() -> None:
    found = available()
    assert ("energy_cpu" in found) != ("energy_cpu_absent" in found)
    assert ("energy_gpu" in found) != ("energy_gpu_absent" in found)


@pytest.mark.parametrize(("busy", "expected"), [(0.0, 12.0), (1.3, None)])
def test_idle_watts_count_only_if_nothing_else_runs(
    machine: Callable[[str], Machine], monkeypatch: pytest.MonkeyPatch, busy: float, expected: float | None
) -> None:
    here = machine("amd")
    others = SimpleNamespace(so_far=lambda: {"other_cpus_host": busy})
    monkeypatch.setattr(energy.time, "sleep", lambda seconds: here.use(seconds, _0=12 * seconds))
    monkeypatch.setattr(publish.machine, "OtherPrograms", lambda: others)
    target = Target("cpu", {}, here.meter)
    watts = publish.idle_watts(target)
    assert watts.idle == (expected and pytest.approx(expected))
    assert ("while the idle watts were measured" in watts.problem) == (expected is None)
    monkeypatch.setattr(energy.time, "sleep", lambda seconds: here.file("intel-rapl:0").unlink())
    assert publish.idle_watts(target).idle is None


def test_figures() -> None:
    found = figures(
        [Reading(180.0, 10.0, "RAPL package-0")], Watts(8.0), queries=20, generated_tokens=400, correct=10
    )
    assert found == {
        "energy_j_per_query": pytest.approx(5.0),
        "energy_j_per_token": pytest.approx(0.25),
        "energy_j_per_correct": pytest.approx(10.0),
        "idle_w": 8.0,
        "energy_kind": "measured",
        "energy_source": "measured: RAPL package-0",
    }


@pytest.mark.parametrize("correct", [None, 0])
def test_what_nothing_was_counted_for_is_absent(correct: int | None) -> None:
    found = figures([Reading(180.0, 10.0, "RAPL package-0")], Watts(8.0), 20, 0, correct)
    assert "energy_j_per_query" in found
    assert "energy_j_per_token" not in found
    assert "energy_j_per_correct" not in found


@pytest.mark.parametrize(
    ("reading", "idle", "reason"),
    [
        (Reading(70.0, 10.0, "RAPL"), 8.0, "7 W under load are not above the 8 W idle"),
        (Reading(80.0, 10.0, "RAPL"), 8.0, "not above"),
        (Reading(0.0, 0.0, "RAPL", kind="estimated"), 8.0, "not above"),
        (Reading(180.0, 10.0, "RAPL"), None, "idle watts could not be measured"),
        (Reading(90.0, 0.5, "RAPL"), 8.0, "measured for 0.50 s only"),
    ],
)
def test_no_figure_below_or_without_the_idle_baseline(
    reading: Reading, idle: float | None, reason: str
) -> None:
    found = figures([reading], Watts(idle), 20, 400, 10)
    assert list(found) == ["energy_absent"]
    assert reason in str(found["energy_absent"])


def test_an_estimate_says_that_it_is_one() -> None:
    """Half of 4 CPUs busy for 10 s between 20 and 100 W: 60 W, 40 above idle."""
    watts = Watts(20.0, load=100.0, cpus=4)
    reading = watts.estimate(cpu_seconds=20.0, seconds=10.0)
    assert reading.joules == pytest.approx(600)
    found = figures([reading], watts, queries=40, generated_tokens=800, correct=None)
    assert found["energy_j_per_query"] == pytest.approx(10)
    assert found["energy_kind"] == "estimated"
    assert found["energy_source"] == ("estimated: watts given in params.yaml (20 W idle, 100 W at full load)")
    assert watts.estimate(99.0, 10.0).joules == pytest.approx(1000)  # no more than full load
    assert watts.estimate(0.0, 0.0).joules == 0


class FakeNvml(types.ModuleType):
    """As much of pynvml as is called, of one card."""

    class NVMLError(Exception):
        pass

    def __init__(self, driver: bool = True, counter: bool = True) -> None:
        super().__init__("pynvml")
        self.driver, self.counter, self.millijoules = driver, counter, 5_000_000

    def nvmlInit(self) -> None:
        if not self.driver:
            raise self.NVMLError("NVML Shared Library Not Found")

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        if index != 0:
            raise self.NVMLError("Invalid Argument")
        return index

    def nvmlDeviceGetName(self, handle: int) -> str:
        return "Toy H9000"

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: int) -> int:
        if not self.counter:
            raise self.NVMLError("Not Supported")
        return self.millijoules


def test_nvml(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fake = FakeNvml()
    monkeypatch.setitem(sys.modules, "pynvml", fake)
    assert available(tmp_path)["energy_gpu"] == "NVML Toy H9000"
    now = iter([0.0, 10.0])
    meter = Meter(tmp_path, gpu=0, clock=lambda: next(now))
    fake.millijoules += 3_000_000
    assert meter.stop() == Reading(3000.0, 10.0, "NVML Toy H9000")


def test_a_card_whose_driver_was_reloaded_is_a_problem(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    fake = FakeNvml()
    monkeypatch.setitem(sys.modules, "pynvml", fake)
    meter = Meter(tmp_path, gpu=0)
    fake.millijoules = 7
    assert "was reset" in meter.stop().problem


@pytest.mark.parametrize(
    ("fake", "gpu", "reason"),
    [
        (None, 0, "no NVML: the package nvidia-ml-py is not installed; pip install nvidia-ml-py"),
        (FakeNvml(driver=False), 0, "no NVIDIA driver: NVML Shared Library Not Found"),
        (FakeNvml(counter=False), 0, "NVML shows no energy of GPU 0: Not Supported"),
        (FakeNvml(), 3, "NVML shows no energy of GPU 3: Invalid Argument"),
    ],
)
def test_no_nvml(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, fake: FakeNvml | None, gpu: int, reason: str
) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", fake)
    assert available(tmp_path, gpu)["energy_gpu_absent"] == reason
