"""Which mixes are tried and in which order, what counts as no loss, and how a mix is written down."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import yaml

from cartlm.errors import UserError
from cartlm.evaluation.statistics import Pairs
from cartlm.quantization.config import Gguf
from cartlm.quantization_search import search, space
from cartlm.quantization_search.space import Group
from cartlm.quantization_search.trials import Try

LADDER = ("Q8_0", "Q6_K", "Q4_K")
GROUPS = [Group("token_embd", 10, LADDER), Group("attn_q", 100, LADDER), Group("ffn_up", 1000, LADDER)]


def walked(loses_nothing: Callable[[dict[str, str]], bool]) -> tuple[dict[str, str] | None, list[list[str]]]:
    """What was found, and every mix tried."""
    tried = []

    def judge(mix: dict[str, str]) -> bool:
        tried.append(list(mix.values()))
        return loses_nothing(mix)

    return space.walk(GROUPS, judge), tried


def test_all_go_down_together_and_then_one_at_a_time_the_one_that_saves_most() -> None:
    found, tried = walked(lambda mix: mix["attn_q"] != "Q4_K" and mix["token_embd"] != "Q4_K")
    assert found == {"token_embd": "Q6_K", "attn_q": "Q6_K", "ffn_up": "Q4_K"}
    assert tried == [
        ["Q8_0"] * 3, ["Q6_K"] * 3, ["Q4_K"] * 3,
        ["Q6_K", "Q6_K", "Q4_K"], ["Q6_K", "Q4_K", "Q4_K"], ["Q4_K", "Q6_K", "Q4_K"],
    ]  # fmt: skip


def test_the_ends_of_the_ladder() -> None:
    assert walked(lambda mix: False) == (None, [["Q8_0"] * 3])
    found, tried = walked(lambda mix: True)
    assert (set((found or {}).values()), len(tried)) == ({"Q4_K"}, 3)


def test_ladders_of_other_lengths() -> None:
    groups = [Group("token_embd", 10, ("Q8_0",)), Group("ffn_up", 9, LADDER)]
    assert space.walk(groups, lambda mix: True) == {"token_embd": "Q8_0", "ffn_up": "Q4_K"}


@pytest.mark.parametrize(
    ("text", "imatrix", "said"),
    [
        ("Q4_K_M", True, "Q4_K_M is no type of a tensor"), ("Q8_0,nonsense", True, "NONSENSE"),
        ("Q8_0,IQ2_S", False, "IQ2_S needs an importance matrix"), (" , ", True, "names no type"),
    ],
)  # fmt: skip
def test_wrong_types(text: str, imatrix: bool, said: str) -> None:
    with pytest.raises(UserError, match=said):
        space.parse_types(text, imatrix)


def test_types_are_put_in_order() -> None:
    assert space.parse_types("q2_k, Q8_0,IQ3_S,Q8_0", True) == ["Q8_0", "IQ3_S", "Q2_K"]
    assert [*space.WIDE] == space.parse_types(",".join(space.WIDE), False)
    assert [*space.NARROW] == space.parse_types(",".join(space.NARROW), False)


def test_a_mix_as_params_is_that_mix() -> None:
    mix = {"token_embd": "Q6_K", "attn_q": "Q8_0", "ffn_up": "Q4_K"}
    found = space.variant(mix, GROUPS, imatrix=True)
    assert found.type == "Q4_K_M"  # what most weights have, by a file's name
    assert found.tensor_types == mix
    text = space.params_lines("mix", found)
    assert Gguf.model_validate(yaml.safe_load(text)["gguf"]["mix"]) == found
    assert "output" not in text


def test_no_loss_is_judged_on_the_pairs() -> None:
    def judged(lost: int, won: int, tolerance: float) -> bool:
        return search.is_no_loss(Pairs(180 - lost, lost, won, 20 - won), tolerance)

    assert judged(lost=1, won=0, tolerance=0.5)  # one of 200 is half a point
    assert not judged(lost=2, won=0, tolerance=0.5)
    assert judged(lost=9, won=9, tolerance=0)
    assert not judged(lost=1, won=0, tolerance=0.49)


def test_tries_are_paired_by_row() -> None:
    first = Try({}, 8, 16, 10, frozenset({"a", "b"}))
    other = Try({}, 4, 8, 10, frozenset({"b", "c", "d"}))
    assert other.against(first) == Pairs(both=6, lost=2, won=1, neither=1)
    assert other.exact_match == 0.7
    written = other.as_json(first)
    assert (written["lost"], written["won"], written["difference_points"]) == (2, 1, -10.0)
    assert written["low_points"] < -10 < written["high_points"]


def test_a_mix_in_words() -> None:
    assert search.mix_text(dict.fromkeys(("attn_q", "ffn_up"), "Q4_K")) == "Q4_K everywhere"
    assert search.mix_text({"attn_q": "Q4_K", "ffn_up": "Q8_0", "ffn_down": "Q4_K"}) == "Q8_0 ffn_up, Q4_K attn_q ffn_down"  # fmt: skip
