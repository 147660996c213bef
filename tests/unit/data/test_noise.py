"""Noise operators: seeded, bounded, and never touching a digit."""

from __future__ import annotations

import random
import re

from hypothesis import given
from hypothesis import strategies as st
from rapidfuzz.distance import DamerauLevenshtein

from cartlm.data import noise
from cartlm.data.lexicon import LANGUAGES
from tests.fixtures import fixed_params

RATES = fixed_params.load().data.noise
languages = st.sampled_from(LANGUAGES)
seeds = st.integers(0, 2**32)


@given(st.text(max_size=120), languages, seeds)
def test_a_typo_is_one_edit_and_no_digit_changes(text: str, language: str, seed: int) -> None:
    typed = noise.typo(text, language, random.Random(seed))
    assert DamerauLevenshtein.distance(text, typed) <= 1
    assert re.sub(r"\D", "", typed) == re.sub(r"\D", "", text)


@given(st.text(max_size=120), languages, seeds)
def test_the_same_seed_gives_the_same_noise(text: str, language: str, seed: int) -> None:
    assert noise.apply(text, language, RATES, random.Random(seed)) == noise.apply(
        text, language, RATES, random.Random(seed)
    )


@given(st.text(max_size=120), languages, seeds)
def test_a_message_without_a_named_operator_is_unchanged(text: str, language: str, seed: int) -> None:
    typed, done = noise.apply(text, language, RATES, random.Random(seed))
    assert (typed == text) == (not done)


def test_diacritics_drop_by_whole_messages() -> None:
    assert noise.drop_diacritics("čaša šećera", "croatian", 1.0, random.Random(1)) == "casa secera"
    typed = {
        noise.drop_diacritics("narudžba među", "croatian", 1.0, random.Random(seed)) for seed in range(20)
    }
    assert typed == {"narudzba medju", "narudzba medu"}
    assert noise.drop_diacritics("año", "spanish", 0.0, random.Random(1)) == "año"


def test_joined_words_stay_away_from_digits() -> None:
    for seed in range(30):
        joined = noise.join_words("add 2 big jars", random.Random(seed))
        assert joined in ("add 2 bigjars",)


def test_keyboards_are_the_language_s_own() -> None:
    assert "z" in noise.neighbours("croatian")["t"]
    assert "y" in noise.neighbours("english")["t"]
    assert "ñ" in noise.neighbours("spanish")["l"]


def test_the_clean_share_is_what_the_params_say() -> None:
    rng = random.Random(5)
    touched = [bool(noise.apply("Molim dodajte dvije čaše", "croatian", RATES, rng)[1]) for _ in range(2000)]
    assert abs(sum(touched) / 2000 - (1 - RATES.clean)) < 0.04
