"""`cartlm data check`: every problem with its place, roles, and sizes that fit."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from cartlm import cli
from cartlm.data import files
from cartlm.errors import UserError
from tests import ROOT
from tests.fixtures import fixed_params
from tests.unit.data.own_rows import PLANTED, folder, record, settings, write


@pytest.fixture(autouse=True)
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The working directory: params, and the base model's tokenizer."""
    fixed_params.write(tmp_path)
    (tmp_path / "base").mkdir()
    (tmp_path / "base/model").symlink_to(ROOT / "base/model")
    monkeypatch.chdir(tmp_path)


def check(path: Path) -> Result:
    return CliRunner().invoke(cli.main, ["data", "check", str(path)])


def test_cartlm_data_check(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", [fault for fault, _ in PLANTED])
    done = check(path)
    assert done.exit_code == 2
    assert done.stderr.startswith(f"cartlm: error: {path} has {len(PLANTED)} problems; ")
    assert done.stderr.count("\n") == 1
    said = done.stdout.split("\n")
    assert [line.split(": ")[0] for line in said[: len(PLANTED)]] == [
        f"{path}:{i}" for i in range(1, len(PLANTED) + 1)
    ]
    assert said[len(PLANTED)] == f"{path}: 0 sound rows"
    done = check(write(tmp_path / "rows.jsonl", [record(i) for i in range(6)]))
    assert done.exit_code == 0, done.stderr
    assert done.stdout.startswith(f"{path}: 6 sound rows, ")
    done = check(tmp_path / "none.jsonl")
    assert done.exit_code == 2
    assert "none.jsonl does not exist" in done.stderr


def test_cartlm_data_check_names_all_of_a_folder(tmp_path: Path) -> None:
    """Fourteen faults of as many kinds, the roles, what was left out, and sizes that fit; all by one command."""
    path = folder(
        tmp_path / "rows",
        train=[
            *(record(i) for i in range(20)), record(30, quantity=2.5), record(31, message="two \ufdd0"),
            record(32, product=record(32)["product"] + "\u200b"), record(33, message="two </s> please"),
            record(34, catalog="Tea, Milk"), record(35, language="klingon"), record(36, message="a\x0bb"), record(2), "{",
        ],
        Val=[record(40), record(41, quantity="1e400"), record(5)],
        TEST=[record(50), {**record(4), "quantity": 46}, record(51, catalog=["Tea", "Tea\u00a0"])],
        more=[record(7), record(8, message="")],
        train_test=[record(60)],
    )  # fmt: skip
    (path / "old").mkdir()
    (path / "notes.txt").touch()
    (path / ".more.jsonl").write_bytes(b"\xff")
    done = check(path)
    assert done.exit_code == 2, done.stderr
    said = done.stdout.split("\n")
    places = [f"train.jsonl:{line}: " for line in (21, 22, 23, 24, 25, 26, 27, 28, 29)]
    places += ["Val.jsonl:2: ", "TEST.jsonl:3: ", "more.jsonl:2: "]
    for place in places:
        assert sum(line.startswith(f"{path}/{place}") for line in said) == 1, place
    assert sum("train_test.jsonl is named for" in line for line in said) == 1
    pooled = [line for line in said if "with another label" in line]
    assert [f"{path}/train.jsonl:5" in line and f"{path}/TEST.jsonl:2" in line for line in pooled] == [True]
    twice = [line for line in said if "same catalog and message" in line and line not in pooled]
    assert len(twice) == 3  # train:28 as line 3, more:1 as train:8, train:6 as Val:3
    assert any("</s>" in line and "special token" in line for line in said)
    assert {"TEST.jsonl: test", "Val.jsonl: validation", "left out: notes.txt, old/"} <= set(said)
    assert "set data.train: " in done.stdout
    assert done.stderr.startswith(f"cartlm: error: {path} has {len(places) + 3} problems; ")


def test_the_command_that_an_error_names_works(tmp_path: Path) -> None:
    path = folder(tmp_path / "my rows", train=[record(0), record(1, action="buy")])
    with pytest.raises(UserError) as caught:
        files.splits(settings(path))
    _, *arguments = shlex.split(caught.value.hint)
    done = CliRunner().invoke(cli.main, arguments)
    assert done.exit_code == 2
    assert done.stdout.startswith(f"{path}/train.jsonl:2: action is 'buy'")
