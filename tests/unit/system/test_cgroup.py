"""A cgroup for one process, on a tree of plain files."""

from __future__ import annotations

from pathlib import Path

from cartlm.system import cgroup


def tree(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


def test_reasons(tmp_path: Path) -> None:
    assert cgroup.why_none(tmp_path) == "no memory cgroup is mounted"
    tree(tmp_path, {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cgroup.controllers": "memory\n"})
    assert "does not hand the memory controller" in cgroup.why_none(tmp_path)
    tree(tmp_path, {"sys/fs/cgroup/cgroup.subtree_control": "cpu memory\n"})
    assert cgroup.why_none(tmp_path) == ""
    with cgroup.own(tmp_path / "none") as own:
        assert own is None


def test_a_group_comes_and_goes(tmp_path: Path) -> None:
    tree(tmp_path, {"proc/self/cgroup": "4:memory:/\n", "sys/fs/cgroup/memory/cgroup.procs": ""})
    with cgroup.own(tmp_path) as own:
        assert own is not None
        assert own.parent == tmp_path / "sys/fs/cgroup/memory"
        assert cgroup.peak_bytes(own) is None
        for text, peak in (("0\n", None), ("4096\n", 4096)):  # 0 is of a group that nobody could join
            (own / cgroup.PEAK_V1).write_text(text)
            assert cgroup.peak_bytes(own) == peak
        (own / cgroup.PEAK_V1).unlink()
        assert own.is_dir()
    assert not own.exists()
