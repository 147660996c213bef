"""The pretraining text keeps its promises: nothing held out, the target JSON only where a header asks for it."""

from __future__ import annotations

import json
import random
import re
import unicodedata
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml
from rapidfuzz import fuzz

from base.pretraining import corpus, formats, inventions
from base.pretraining.encoding import encode
from cartlm.data import lexicon, menus, messages, rules, wording
from cartlm.data.everyday import frames
from cartlm.task import prompt
from cartlm.task.intent import Intent, parse_intent
from tests.fixtures import fixed_params

FRAMES = Path(corpus.__file__).parent / "frames"
DAYS = ("day", "past", "coming", "lately")
DATA = fixed_params.load().data


def _letters(text: str) -> list[int]:
    return [ord(letter) for letter in text]


@pytest.fixture(scope="module")
def documents() -> list[corpus.Document]:
    return [corpus.document(DATA, index / 200, random.Random(index)) for index in range(200)]


def _is_target(answer: str) -> bool:
    try:
        parse_intent(answer.strip())
    except ValueError:
        return False
    return True


def test_the_target_occurs_only_behind_its_header_and_in_at_most_a_tenth(
    documents: list[corpus.Document],
) -> None:
    with_target = 0
    for spans in documents:
        answers = [span.text for span in spans if span.ends]
        if any(map(_is_target, answers)):
            with_target += 1
            assert spans[0].text == formats.TARGET_HEADER == prompt.FORMAT_HEADER
    assert 0.02 < with_target / len(documents) <= 0.12


@pytest.fixture(scope="module")
def everyday() -> list[corpus.Document]:
    return [corpus.document(DATA, 1.0, random.Random(index), 1.0) for index in range(300)]


def test_everyday_questions_mean_a_line_of_their_catalog(everyday: list[corpus.Document]) -> None:
    asked = 0
    for spans in everyday:
        text = "".join(span.text for span in spans)
        if "Catalog:\n" not in text or "User:" not in text:
            continue
        lines = text.split("Catalog:\n")[1].split("\n\n")[0].split("\n")
        for question, answer in pairwise(spans):
            if answer.ends and question.mention != (0, 0):
                asked += 1
                start, end = question.mention
                assert 0 < start < end <= len(question.text)
                assert lines[answer.lines[0]] in answer.text or '"' in lines[answer.lines[0]]
    assert asked > 500


def test_no_held_out_everyday_frame_occurs(everyday: list[corpus.Document]) -> None:
    text = "".join(span.text for spans in everyday for span in spans).lower()
    held = [
        frame.split("{")[0]
        for language in lexicon.LANGUAGES
        for action, style in (("add", "order"), ("add", "aside"), ("remove", "order"), ("remove", "aside"))
        for frame in frames(language, action, style, novel=True)
    ]
    beginnings = [frame for frame in held if len(frame) > 14 and "<" not in frame and "[" not in frame]
    assert len(beginnings) >= 3
    assert not [frame for frame in beginnings if f"\n{frame}" in text]


def test_no_everyday_catalog_has_a_held_out_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpus, "respelled_catalog", lambda catalog, rng: catalog)
    rng, menu_lines = random.Random(2), 0
    for _ in range(200):
        catalog = corpus._everyday_catalog("english", DATA, (5, 20), rng)
        of_menus = [line for line in catalog if line.product.domain in menus.menus("english")]
        assert not [line.text for line in of_menus if menus.held_out(line.product)]
        menu_lines += len(of_menus)
    assert menu_lines > 500


def test_words_are_respelled_alike_in_a_whole_catalog() -> None:
    rng = random.Random(4)
    changed = 0
    for _ in range(60):
        catalog = menus.sample("english", False, DATA.catalog, rng)[1]
        new = inventions.respelled_catalog(catalog, rng)
        assert len({line.text.lower() for line in new}) == len(new) == len(catalog)
        words: dict[str, set[str]] = {}
        for line, other in zip(catalog, new, strict=True):
            pairs = zip(line.product.name.split(), other.product.name.split(), strict=True)
            for word, respelled in pairs:
                words.setdefault(word, set()).add(respelled)
            assert line.variant == other.variant
        assert all(len(forms) == 1 for forms in words.values())
        changed += any(word not in forms for word, forms in words.items())
    assert changed > 40


def test_about_half_of_the_documents_with_answers_have_a_header(documents: list[corpus.Document]) -> None:
    asking = [spans for spans in documents if any("\n\nUser:\n" in span.text for span in spans)]
    share = sum(spans[0].text.startswith("Format: ") for spans in asking) / len(asking)
    assert 0.45 < share < 0.75


def test_no_held_out_product_and_no_held_out_frame_occurs(documents: list[corpus.Document]) -> None:
    held = {
        product.name.lower() for language in lexicon.LANGUAGES for product in rules.products(language, True)
    }
    for spans in documents:
        for line in "".join(span.text for span in spans).split("\n"):
            assert line.split(" (")[0].lower() not in held
    frames = [
        text
        for language in lexicon.LANGUAGES
        for action in ("add", "remove")
        for kind in ("terse", "full")
        for _, text in messages.cores(language, action, kind, True)
        if len(text) > 24 and "<" not in text and "[" not in text
    ]
    text = "\n".join(span.text for spans in documents for span in spans).lower()
    found = [frame for frame in frames if frame.split("{")[0].strip() and frame.split("{")[0].lower() in text]
    assert len(frames) >= 5
    assert not [frame for frame in found if len(frame.split("{")[0]) > 12], found


def test_every_format_reads_back_and_names_itself() -> None:
    rng = random.Random(3)
    intent = Intent("remove", "Té (2g)", 7)
    kinds = set()
    for _ in range(300):
        chosen = formats.sample(rng)
        kinds.add(chosen.kind)
        assert not chosen.is_target
        answer = chosen.render(intent)
        assert "Té (2g)" in answer
        header = chosen.header()
        assert header.startswith("Format: ")
        assert header.count("\n") == 1
        if chosen.kind in ("json", "compact"):
            assert json.loads(answer).keys() == json.loads(header.removeprefix("Format: ")).keys()
    assert kinds == {"json", "compact", "pairs", "lines", "bare"}
    assert formats.TARGET.render(intent) == intent.canonical()


def test_answers_are_supervised_up_to_their_eos_and_tokenized_apart() -> None:
    spans = [
        corpus.Span("Catalog:\nA", 0.05),
        corpus.Span("\n\nUser:\na", 0.2),
        corpus.Span("\nA", 1.0, ends=True),
    ]
    made = encode(spans, _letters, 1, 2)
    assert made.ids == [1, *map(ord, "Catalog:\nA\n\nUser:\na\nA"), 2]
    assert made.weights == [0.0] + [0.05] * 10 + [0.2] * 9 + [0.0, 1.0, 1.0]


@pytest.mark.parametrize("make", [inventions.invented_product, inventions.respelled_product])
def test_invented_products_have_every_form(make: Any) -> None:
    for seed in range(60):
        language = lexicon.LANGUAGES[seed % 3]
        product = make(language, random.Random(seed))
        lengths = {len(form.split(" ")) for form in product.forms.values() if form}
        assert len(lengths) == 1
        assert product.head < lengths.pop()
        assert product.name == product.forms["nom" if language == "croatian" else "one"]


def test_a_respelled_product_is_new_and_inflects_as_before() -> None:
    known = {product.name for language in lexicon.LANGUAGES for product in lexicon.load(language)}
    made = [inventions.respelled_product("croatian", random.Random(seed)) for seed in range(300)]
    changed = [product for product in made if product.name not in known]
    assert len(changed) > 200
    feminine = [p for p in changed if p.gender == "f" and " " not in p.name and p.name.endswith("a")]
    assert feminine
    assert all(product.forms["acc"].endswith("u") for product in feminine)


def test_attention_is_sent_to_the_line_the_mention_and_the_copied_letters() -> None:
    spans = [
        corpus.Span("Catalog:\nTea (2g)\nTea (5g)", 0.05),
        corpus.Span("\n\nUser:\nadd tea 5g ok", 0.2, lines=(1,), mention=(12, 18)),
        corpus.Span("\n{Tea (5g)}", 1.0, ends=True, lines=(1,)),
    ]
    made = encode(spans, _letters, 1, 2)

    def text(places: list[int]) -> str:
        return "".join(chr(made.ids[place]) for place in places)

    assert [(text([at]), text(right)) for at, right in made.choices] == [(c, "Tea (5g)") for c in " 5g"]
    first, *others = [text(right) for _, right in made.recalls]
    assert first == " 5g"  # the words before know nothing of the line that is meant
    assert set(others) == {" tea 5g"}  # a piece may hold the blank too
    assert [(text([at]), chr(token)) for at, token in made.meant] == [(c, "T") for c in " 5g"]
    assert [(text([at]), chr(token)) for at, token in made.begun] == [("{", "T")]
    assert {text(right) for _, right in made.anchors} == {"T"}
    assert text([at for at, _ in made.anchors]) == "ea (2g)ea (5g)"
    *copies, (last, end) = made.copies
    assert (text([last]), text(end), text([end[0] - 1])) == (")", "\n", ")")
    assert text([at + 1 for at, _ in copies]) == "Tea (5g)"
    # as long as both lines begin alike, both are right
    assert [len(right) for _, right in copies] == [2, 2, 2, 2, 2, 1, 1, 1]
    assert all(made.ids[place] == made.ids[at + 1] for at, right in copies for place in right)
    assert min(right[-1] for _, right in copies[5:]) > copies[4][1][0]


def test_the_letters_that_tell_lines_apart_weigh_more() -> None:
    spans = [
        corpus.Span("Catalog:\nTea (2g)\nTea (5g)\nJam", 0.05),
        corpus.Span("\n\nUser:\n5g", 0.2, lines=(1,), mention=(9, 11)),
        corpus.Span("\nTea (5g)", 1.0, ends=True, lines=(1,)),
    ]
    weights = encode(spans, _letters, 1, 2, text_weight=0.5).weights
    # T is not J, 5 is not 2; the rest follows
    assert weights[-9:] == [corpus.CHOICE, 1.0, 1.0, 1.0, 1.0, corpus.CHOICE, 1.0, 1.0, 1.0]
    assert set(weights[:-9]) == {0.0, 0.025, 0.1}


def test_the_mention_is_found_in_what_noise_left(documents: list[corpus.Document]) -> None:
    spans = [span for document in documents for span in document if span.mention != (0, 0)]
    assert len(spans) > 300
    assert all(0 < begin < end <= len(span.text) for span in spans for begin, end in [span.mention])


@pytest.mark.parametrize("language", lexicon.LANGUAGES)
def test_a_mention_is_the_words_for_the_product(language: str) -> None:
    rng, clean = random.Random(2), 0
    for _ in range(100):
        draft = rules.draft(language, rng.choice(("add", "remove")), False, DATA, rng)
        begin, end = corpus._mention(draft, 0)
        found = draft.message[begin:end].lower()
        if draft.message == draft.clean:
            clean += 1
            assert found == draft.phrase.lower()
        else:
            assert fuzz.ratio(found, draft.phrase.lower()) > 60, (found, draft.phrase)
    assert clean > 20


def _bare(frame: str) -> str:
    """A frame without its slots, symbols and polite words."""
    frame = re.sub(r"\[[^\]]*\]|<\w+>|\{\w+\}", " ", frame)
    frame = re.sub(
        r"\b(please|por favor|molim( te| vas)?|kindly|for me|para mí|za mene)\b", " ", frame.lower()
    )
    return re.sub(r"[\W_]+", " ", frame).strip()


def _stems(frame: str, symbols: dict[str, list[str]]) -> set[str]:
    """The first five letters of the longer words of a frame, its symbols spelled out, without accents."""
    text = re.sub(r"<(\w+)>", lambda match: " ".join(symbols.get(match[1], [])), frame)
    text = unicodedata.normalize("NFD", re.sub(r"\{\w+\}", " ", text).lower())
    plain = "".join(letter for letter in text if not unicodedata.combining(letter))
    return {word[:5] for word in re.findall(r"[^\W\d_]{4,}", plain)}


@pytest.mark.parametrize("language", lexicon.LANGUAGES)
def test_words_that_only_held_out_frames_have_occur_in_the_infinitive_only(language: str) -> None:
    """The listed frames do without them; `verbs` may hold them, as translations of the training frames' verbs."""
    symbols = {k: v for k, v in wording.grammar(language)["symbols"].items() if k not in DAYS}

    def stems(novel: bool) -> set[str]:
        frames = [
            text
            for action in ("add", "remove")
            for kind in ("terse", "full")
            for _, text in messages.cores(language, action, kind, novel)
        ]
        return set().union(*(_stems(text, symbols) for text in frames))

    unseen = stems(True) - stems(False)
    assert unseen
    given = yaml.safe_load((FRAMES / f"{language}.yaml").read_text(encoding="utf-8"))
    for action in ("add", "remove"):
        for line in given[action]:
            assert not _stems(line, symbols) & unseen, line
        for verb in given["verbs"][action]:
            assert language == "english" or re.search(r"(ti|ći|[aeiíñ]r)$", verb), verb


@pytest.mark.parametrize("language", lexicon.LANGUAGES)
def test_no_other_frame_is_close_to_a_held_out_one(language: str) -> None:
    held = {
        _bare(text)
        for action in ("add", "remove")
        for kind in ("terse", "full")
        for _, text in messages.cores(language, action, kind, True)
    } - {""}
    frames = corpus.other_frames(language)
    assert set(frames) == {"add", "remove"}
    for action, lines in frames.items():
        assert len(lines) > 60
        assert len(set(lines)) == len(lines)
        for line in lines:
            assert line.count("{np}") + line.count("{def}") == 1
            assert action == "remove" or "{np}" in line
            assert not [text for text in held if fuzz.ratio(_bare(line), text) >= 75], line


def test_the_token_that_decides_the_action_weighs_more() -> None:
    span = corpus.Span("\n{add x}", 1.0, ends=True, rival="\n{remove x}")
    weights = encode([corpus.Span("q", 0.2), span], _letters, 1, 2).weights
    # BOS, q, the newline, then "{add x}" whose second letter decides, then EOS
    assert weights == [0.0, 0.2, 0.0, 1.0, corpus.DECISION, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0]
