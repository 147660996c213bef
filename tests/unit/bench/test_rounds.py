"""rounds.csv: what is written is read back, and anything else is refused."""

from __future__ import annotations

import pytest

from cartlm.bench.rounds import parse_rounds, to_csv
from cartlm.errors import UserError


def test_rounds_are_written_sorted_with_four_digits_and_read_back() -> None:
    text = to_csv([(3, "f16", "cpu.load_s", 0.123456), (0, "q4", "cpu.a", 12345.6), (0, "f16", "b", 2)])
    assert text == "round,variant,metric,value\n0,f16,b,2\n0,q4,cpu.a,12350\n3,f16,cpu.load_s,0.1235\n"
    assert parse_rounds(text, "rounds.csv", "")["f16", "cpu.load_s"] == {3: 0.1235}


def test_rounds_csv_is_read_or_refused() -> None:
    text = "round,variant,metric,value\n0,f16,cpu.load_s,0.5\n1,f16,cpu.load_s,0.25\n"
    assert parse_rounds(text, "rounds.csv", "git checkout") == {("f16", "cpu.load_s"): {0: 0.5, 1: 0.25}}
    for broken in (
        "",
        "round,value\n",
        text + "2,f16\n",
        text + "x,f16,cpu.load_s,1\n",
        text + "2,f16,cpu.load_s,x\n",
        text + "2,f16,cpu.load_s,nan\n",
        text + "2,f16,cpu.load_s,inf\n",
    ):
        with pytest.raises(UserError, match=r"rounds.csv"):
            parse_rounds(broken, "rounds.csv", "git checkout")
