"""Everyday messages: the label follows from the text, no other line could be meant, and what they teach is tagged."""

from __future__ import annotations

import random
import re
from collections import Counter

import pytest
import yaml

from base.pretraining import corpus
from cartlm.data import everyday, filters, gates, lexicon, menus, messages, naming, offline, rules, spelling
from cartlm.data.config import Data
from cartlm.data.lexicon import Line
from cartlm.data.wording import grammar
from cartlm.task import prompt
from cartlm.task.intent import ACTIONS
from tests import ROOT
from tests.fixtures import fixed_params

DATA = fixed_params.load().data
STYLES = {"add": ("bare", "order", "aside"), "remove": ("order", "aside")}


def drafts(count: int, seed: int = 1, novel: bool = False, data: Data = DATA) -> list[rules.Draft]:
    rng = random.Random(seed)
    turns = offline.in_turn(data.languages, count)
    return [everyday.draft(language, action, novel, data, rng) for language, action in turns]


@pytest.fixture(scope="module")
def made() -> list[rules.Draft]:
    return drafts(3000)


def target(draft: rules.Draft) -> Line:
    return next(line for line in draft.catalog if line.text == draft.intent.product)


def find(language: str, name: str, variant: str = "") -> Line:
    return Line(next(each for each in lexicon.load(language) if each.name == name), variant, "")


def item(language: str, menu: str, head: str, *before: str, behind: str = "", size: str = "") -> Line:
    return Line(menus.product(language, menu, head, before, behind), size, "")


def test_a_label_is_one_line_of_its_catalog(made: list[rules.Draft]) -> None:
    for draft in made:
        row = draft.row("x")
        assert row.catalog.count(row.intent.product) == 1
        assert len({line.lower() for line in row.catalog}) == len(row.catalog)
        assert DATA.catalog.min_lines <= len(row.catalog) <= DATA.catalog.max_lines
        assert prompt.split_prompt(row.prompt) == (row.catalog, row.message)
        assert "{" not in row.message
        assert "  " not in draft.clean


def spoken(language: str) -> dict[str, int]:
    """Every way to say a number -> the number, longer ones first."""
    found: dict[str, int] = {}
    lists = naming.everyday(language)
    for table in (grammar(language)["numbers"], lists["collective"], lists["approximate"]["words"]):
        for quantity, forms in table.items():
            for form in forms if isinstance(forms, list) else [forms]:
                found.setdefault(form.lower(), quantity)
    return dict(sorted(found.items(), key=lambda entry: -len(entry[0])))


def said_numbers(draft: rules.Draft) -> set[int]:
    """The numbers in the words for the product, without those of sizes and of the name."""
    line, text = target(draft), f" {draft.phrase.lower()} "
    names = [word for word in line.product.name.lower().split(" ") if word in spoken(draft.language)]
    sizes = [each.variant for each in draft.catalog if each.variant and each.product.key == line.product.key]
    for other in [line.text, *sizes, *names]:
        size = re.escape(other.lower()).replace(r"\-", "[ -]")
        text = re.sub(rf"(?<!\w){size}(?!\w)", " ", text)
    found = set()
    for form, quantity in spoken(draft.language).items():
        text, hits = re.subn(rf"(?<!\w){re.escape(form)}(?!\w)", " ", text)
        found |= {quantity} if hits else set()
    return found | {int(each) for each in re.findall(r"(?<![\w.,])x?(\d+)x?(?![\w])", text)}


def test_the_quantity_is_the_only_number(made: list[rules.Draft]) -> None:
    for draft in made:
        line = target(draft)
        if line.product.plural_only and line.product.units:
            continue  # a pair is one
        assert said_numbers(draft) - {1} == {draft.intent.quantity} - {1}, draft.clean


def test_no_other_line_fits_the_words(made: list[rules.Draft]) -> None:
    checked = Counter[str]()
    for draft in made:
        form = str(draft.tags["name_form"])
        if len(target(draft).variant) == 1 or draft.tags["spelling"] == "own":
            continue  # the filter reads "m" as a size only in capitals
        if form in ("full", "inflected", "some_words"):
            assert filters.product_problem(draft.phrase, target(draft), draft.catalog) == "", draft.clean
            checked[form] += 1
    assert min(checked[form] for form in ("full", "inflected", "some_words")) > 100


def test_a_size_by_comparison_is_the_largest_or_smallest_of_its_product(made: list[rules.Draft]) -> None:
    larger = {"english": "bigger|biggest|larger|largest", "spanish": "más grande", "croatian": "već|najveć"}
    checked = 0
    for draft in made:
        line = target(draft)
        twins = [each for each in draft.catalog if each.product.key == line.product.key]
        if draft.tags["name_form"] == "property" and len(twins) > 1:
            sizes = [size[1] for each in twins if (size := naming.measure(each.variant))]
            mine, most = naming.measure(line.variant), re.search(larger[draft.language], draft.phrase.lower())
            assert mine is not None
            assert mine[1] == (max(sizes) if most else min(sizes)), draft.clean
            checked += 1
    assert checked > 30


@pytest.mark.parametrize(
    ("variant", "measured"),
    [
        ("330ml", ("volume", 0.33)), ("1,5L", ("volume", 1.5)), ("1TB", ("storage", 1000.0)), ("12-pack", ("pieces", 12.0)),
        ("XL", ("clothes", 4)), ("EU 42", ("shoes", 42.0)), ("large", ("cups", 2)), ("M6", None), ("60x45cm", None), ("HB", None),
    ],
)  # fmt: skip
def test_sizes_are_measured(variant: str, measured: tuple[str, float] | None) -> None:
    assert naming.measure(variant) == measured


def test_a_part_of_a_name_is_offered_only_where_it_points_at_one_line() -> None:
    plain, spicy, double = (
        item("english", "burgers", "burger", *words) for words in ((), ("spicy",), ("double", "spicy"))
    )
    wrap = item("english", "wraps and bowls", "wrap", "salmon")
    catalog = [plain, spicy, double, wrap]

    def parts(line: Line) -> set[str]:
        return {named.product.name for named in naming.some_words(line, catalog)}

    assert parts(spicy) == set()  # "spicy" and "burger" are in the double one too
    assert parts(double) == {"double", "double spicy", "double burger"}
    assert parts(wrap) == {"salmon", "wrap"}


def test_a_property_is_offered_only_where_one_line_has_it() -> None:
    mint, ice = (item("english", "cold drinks", "soda", behind=group) for group in ("with mint", "with ice"))
    without = item("english", "cold drinks", "soda", behind="without ice")
    rng = random.Random(1)
    offered = naming.by_part(mint, [mint, ice, without], rng)
    assert [
        named.one in ("the one with mint", "that one with mint", "the thing with mint") for named in offered
    ] == [True]
    assert naming.by_part(ice, [mint, ice, without], rng) == []


def test_a_synonym_is_offered_only_where_no_other_line_is_called_so() -> None:
    shirt, polo = find("english", "cotton T-shirt", "M"), find("english", "polo shirt", "M")
    assert "cotton tee" in {named.product.name for named in naming.synonyms(shirt, [shirt, polo])}
    tee = item("english", "shirts", "tee", "organic cotton")
    assert "cotton tee" not in {named.product.name for named in naming.synonyms(shirt, [shirt, tee])}
    sweater, jumper = find("english", "wool sweater", "M"), item("english", "shirts", "jumper", "merino")
    assert "wool jumper" not in {named.product.name for named in naming.synonyms(sweater, [sweater, jumper])}


def test_croatian_comparison_agrees() -> None:
    small, big = (item("croatian", "hladna pića", "limunada", size=size) for size in ("200ml", "500ml"))
    (named,) = naming.by_size(big, [small, big])
    said = {everyday.phrase(big, [small, big], named, 2, "word", random.Random(seed)) for seed in range(20)}
    assert said == {"dvije veće limunade"}


@pytest.mark.parametrize("language", lexicon.LANGUAGES)
def test_all_forms_of_menu_products_are_parallel(language: str) -> None:
    for menu, parts in menus.menus(language).items():
        made = menus.combine(language, menu, list(parts["heads"]), list(parts["before"]), parts["behind"])
        assert len(made) > 50
        for product in made:
            assert len({form.count(" ") for form in product.forms.values()}) == 1, product
            assert product.head_noun in parts["heads"] or product.head_noun in str(parts["heads"]), product
            assert product.name == next(iter(product.forms.values()))


def test_menu_words_agree() -> None:
    pizza = menus.product("croatian", "pizze", "pizza", ("velik",), "s tunom")
    assert pizza.forms == {
        "nom": "velika pizza s tunom", "acc": "veliku pizzu s tunom", "gen": "velike pizze s tunom",
        "paucal": "velike pizze s tunom", "gen_pl": "velikih pizza s tunom",
    }  # fmt: skip
    assert pizza.head_noun == "pizza"
    spanish = menus.product("spanish", "hamburguesas", "hamburguesa", ("vegetal",), "con queso azul")
    assert spanish.forms["many"] == "hamburguesas vegetales con queso azul"
    assert menus.product("english", "sides", "wings", ("salt and vinegar",), "").plural_only


def test_lines_of_a_menu_share_words(made: list[rules.Draft]) -> None:
    def sharing(draft: rules.Draft) -> float:
        words = [set(line.product.name.split(" ")) for line in draft.catalog]
        alike = [any(one & other for other in words if other is not one) for one in words]
        return sum(alike) / len(alike)

    shares: dict[str, list[float]] = {"menu": [], "shop": []}
    for draft in made:
        shares[str(draft.tags["lines"])].append(sharing(draft))
    means = {kind: sum(each) / len(each) for kind, each in shares.items()}
    assert means["menu"] > 0.9 > means["shop"]


def test_odd_names_keep_their_letters_and_twins_are_spelled_alike() -> None:
    rng, kinds = random.Random(3), set()
    for _ in range(300):
        _, catalog = menus.sample(rng.choice(lexicon.LANGUAGES), False, DATA.catalog, rng)
        spelled = spelling.respell(catalog, rng)
        names: dict[str, set[str]] = {}
        for line, other in zip(catalog, spelled, strict=True):
            assert re.sub(r"[ -]", "", line.name).lower() == re.sub(r"[ -]", "", other.name).lower()
            assert other.text.removeprefix(other.name) == line.text.removeprefix(line.name)
            names.setdefault(other.product.key, set()).add(other.name)
            kinds |= {bool(re.search(r"[^\W\d_][A-ZČĆŠŽĐÁÉÍÓÚÑ]", other.name)), "-" in other.name}
        assert {len(each) for each in names.values()} == {1}
    assert kinds == {True, False}


def test_signs_stand_for_words_that_messages_say_or_leave_out() -> None:
    rng, signs = random.Random(3), Counter[str]()
    for _ in range(300):
        language = rng.choice(lexicon.LANGUAGES)
        _, catalog = menus.sample(language, False, DATA.catalog, rng)
        signed = spelling.with_signs(catalog, rng)
        names: dict[str, set[str]] = {}
        for line, other in zip(catalog, signed, strict=True):
            assert (other.product, other.variant) == (line.product, line.variant)
            names.setdefault(other.product.key, set()).add(other.name)
            if found := re.findall(r" (&|\+|'[nN]) ", other.name):
                assert len(found) == 1
                signs[found[0].lower()] += 1
                said = re.sub(r" (&|\+|'[nN]) ", " ", other.name).lower()
                assert said in (line.name.lower(), line.name.lower().replace(spelling.AND[language], " ", 1))
        assert {len(each) for each in names.values()} == {1}
    assert set(signs) == {"&", "+", "'n"}
    assert signs["&"] > 100


def test_a_row_tagged_signs_has_one_in_its_line(made: list[rules.Draft]) -> None:
    signed = [target(draft).name for draft in made if draft.tags["spelling"] == "signs"]
    assert signed
    assert all(re.search(r" (&|\+|'[nN]) ", name) for name in signed)


def test_a_message_may_leave_the_sign_out(made: list[rules.Draft]) -> None:
    signed = [draft for draft in made if "&" in target(draft).text and draft.tags["spelling"] == "signs"]
    without = sum("&" not in draft.clean for draft in signed)
    assert len(signed) > 20
    assert 0 < without < len(signed)


def test_a_bare_name_means_add(made: list[rules.Draft]) -> None:
    styles = {
        style: {draft.intent.action for draft in made if draft.tags["style"] == style}
        for style in STYLES["add"]
    }
    assert styles == {"bare": {"add"}, "order": set(ACTIONS), "aside": set(ACTIONS)}


@pytest.mark.parametrize("language", lexicon.LANGUAGES)
@pytest.mark.parametrize(
    ("action", "style"), [(action, style) for action in ACTIONS for style in STYLES[action]]
)
def test_frames_expand_and_held_out_ones_are_apart(language: str, action: str, style: str) -> None:
    seen, held = (everyday.frames(language, action, style, novel) for novel in (False, True))
    assert len(held) >= 3
    assert len(seen) == len(set(seen)) > 3 * len(held)
    for text in seen + held:
        assert text.count("{np}") + text.count("{def}") == 1
    path = ROOT / "base/pretraining/frames" / f"{language}.yaml"
    read = yaml.safe_load(path.read_text(encoding="utf-8"))[action]
    classic = [text for kind in ("terse", "full") for text in grammar(language)[action][kind]]
    others = {re.sub(r"\W+", " ", text.lower()).strip() for text in [*seen, *read, *classic]}
    assert not others & {re.sub(r"\W+", " ", text.lower()).strip() for text in held}


def test_pretraining_has_no_everyday_message() -> None:
    rows = corpus.texts(DATA, 60, 5)
    assert not any(menu in "".join(rows) for menu in ("Peri Peri", "Massaman", "Countersunk"))


def test_novel_rows_share_neither_product_nor_frame_with_training(made: list[rules.Draft]) -> None:
    seen = [draft.row("seen") for draft in made]
    gates.check_novel(seen, [draft.row("novel") for draft in drafts(300, 2, novel=True)])


APPLIES = {
    "menus": ("lines", "menu", lambda draft: True),
    "spelled": ("spelling", "own", lambda draft: True),
    "bare": ("style", "bare", lambda draft: draft.intent.action == "add"),
    "aside": ("style", "aside", lambda draft: draft.tags["style"] != "bare"),
}


@pytest.mark.parametrize("rate", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("key", APPLIES)
def test_rates_hold(key: str, rate: float) -> None:
    data = DATA.with_everyday(**{key: rate})
    tag, value, applies = APPLIES[key]
    hits = [draft.tags[tag] == value for draft in drafts(600, 4, data=data) if applies(draft)]
    tolerance = 4 * (0.25 / max(1, len(hits))) ** 0.5 if 0 < rate < 1 else 0
    assert hits == [] if key == "aside" and not hits else abs(sum(hits) / len(hits) - rate) <= tolerance


def test_share_mixes_both_kinds_and_zero_leaves_the_classic_rows() -> None:
    sizes = {"train": 300, "validation": 30, "test": 60, "calibration": 30}
    made = offline.splits(DATA.model_copy(update=sizes)).splits
    share = sum(row.tags["phrasing"] == "everyday" for row in made["train"]) / 300
    assert abs(share - DATA.everyday.share) < 0.12
    gates.check(made, DATA)
    none = DATA.with_everyday(share=0.0)
    rng, other = random.Random(5), random.Random(5)
    classic = [rules.draft(*turn, False, none, rng).row("x") for turn in offline.in_turn(none.languages, 40)]
    assert [row.message for row in offline.rows("x", 40, 0, none, other)] == [row.message for row in classic]


def test_every_kind_occurs(made: list[rules.Draft]) -> None:
    forms = {"none", "digit", "word", "behind", "collective", "approximate", "more"}
    assert {draft.tags["quantity_form"] for draft in made} == forms
    names = {"full", "inflected", "some_words", "synonym", "property", "comparison"}
    assert {draft.tags["name_form"] for draft in made} == names
    assert all(draft.intent.quantity == 1 for draft in made if draft.tags["quantity_form"] == "none")
    assert messages.NOVEL_EVERY == 6


def test_no_name_is_held_out_in_one_list_and_seen_in_another() -> None:
    held, seen = set[str](), set[str]()
    for language in lexicon.LANGUAGES:
        listed = [(each.name.lower(), lexicon.is_novel(each.key)) for each in lexicon.load(language)]
        for menu, parts in menus.menus(language).items():
            made = menus.combine(
                language, menu, *(list(parts[kind]) for kind in ("heads", "before", "behind"))
            )
            listed += [(each.name.lower(), menus.held_out(each)) for each in made]
        held |= {name for name, novel in listed if novel}
        seen |= {name for name, novel in listed if not novel}
    assert held & seen == set()
