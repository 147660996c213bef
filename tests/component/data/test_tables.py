"""Tables in processes of their own: iconv, what is imported, and memory."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from cartlm.data import charset, tables
from tests.unit.data.test_tables import CROATIAN, ENGLISH, SPANISH, as_csv, read, records, the_problem


@pytest.mark.skipif(not shutil.which("iconv"), reason="no iconv")
@pytest.mark.parametrize("codec", ["cp852", "cp850", "mac_roman", "cp437"])
def test_the_way_out_of_an_encoding_works(tmp_path: Path, codec: str) -> None:
    row = SPANISH | {"message": "¿añades más piñas?"} if codec != "cp852" else CROATIAN
    table = read(tmp_path, "my rows.csv", as_csv([row]).encode(codec))
    command = the_problem(table).partition("such as: ")[2].partition("; cells")[0]
    subprocess.run(command, shell=True, check=True)
    assert records(tables.read_table(tmp_path / "my rows.csv")) == [row]


def test_every_encoding_is_known_to_iconv() -> None:
    if not shutil.which("iconv"):
        pytest.skip("no iconv")
    for codec, name in charset.ONE_BYTE.items():
        done = subprocess.run(["iconv", "-f", name, "-t", "UTF-8"], input=b"\xe9", capture_output=True)
        assert done.stdout.decode() == b"\xe9".decode(codec)


def test_importing_tables_imports_nothing_heavy() -> None:
    code = "import sys; from cartlm.data import tables; assert 'pyarrow' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(tables.__file__).parents[2])


def test_memory_stays_near_the_size_of_the_file(tmp_path: Path) -> None:
    """The peak over 24 MB, with an emoji in each row; a Python text of it all would take four times as much."""
    row = json.dumps(
        {**ENGLISH, "catalog": [f"Milk number {i}" for i in range(30)], "message": "\U0001fa77"},
        ensure_ascii=False,
    )
    (tmp_path / "rows.jsonl").write_text((row + "\n") * (24_000_000 // len(row)), encoding="utf-8")
    (tmp_path / "none.jsonl").touch()
    code = (
        "import resource, sys; from pathlib import Path; from cartlm.data import tables; tables.read_table(Path(sys.argv[1]));"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)"
    )

    def peak(name: str) -> int:
        command = [sys.executable, "-c", code, str(tmp_path / name)]
        return int(subprocess.check_output(command, cwd=Path(tables.__file__).parents[2]))

    assert peak("rows.jsonl") - peak("none.jsonl") < 6 * 24_000_000
