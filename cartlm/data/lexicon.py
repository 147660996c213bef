"""Products with the word forms that a message needs, read from the lexicon files."""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

import yaml

LANGUAGES = ("english", "croatian", "spanish")
_NUMBER_FORMS = {"one": "singular", "many": "plural"}
_FORMS = {
    "english": _NUMBER_FORMS,
    "spanish": _NUMBER_FORMS,
    "croatian": {form: form for form in ("nom", "acc", "gen", "paucal", "gen_pl")},
}
"""Form -> column of the lexicon file; the first form is the product's name."""
_SMALL_WORDS = {"of", "for", "with", "and", "to", "in", "on", "a", "the"}


@cache
def read_yaml(name: str) -> dict[str, Any]:
    """A YAML file of this package: grammars, noise words, prompts."""
    return yaml.safe_load((resources.files("cartlm.data") / name).read_text(encoding="utf-8"))


@dataclass(frozen=True)
class Product:
    """One lexicon entry.

    `forms` holds every inflected form of the name, parallel word for word: English and Spanish `one` and `many`; Croatian
    `nom`, `acc`, `gen`, `paucal` (after 2-4) and `gen_pl` (after 5 and more). `head` is the index of their head noun.
    `content` is the form after a unit ("bottle of ..."). Plural-only things ("hlače") have no counted form and need a unit.
    """

    language: str
    domain: str
    name: str
    head: int
    forms: dict[str, str]
    gender: str
    units: tuple[str, ...]
    content: str
    variants: tuple[str, ...]

    @property
    def key(self) -> str:
        return f"{self.language}/{self.name}"

    @property
    def head_noun(self) -> str:
        return self.name.split(" ")[self.head]

    @property
    def plural_only(self) -> bool:
        return self.gender in ("mp", "fp", "np") or self.units == ("pair",)


@dataclass(frozen=True)
class Line:
    """A product as one catalog line: `Coconut Water (330ml can)`; `spelled` is the name where it is not written like that."""

    product: Product
    variant: str
    unit: str
    spelled: str = ""

    @property
    def name(self) -> str:
        """The name as the catalog writes it."""
        name = self.product.name[:1].upper() + self.product.name[1:]
        if self.product.language == "english":
            words = name.split(" ")
            name = " ".join(word if word in _SMALL_WORDS else word[:1].upper() + word[1:] for word in words)
        return self.spelled or name

    @property
    def text(self) -> str:
        parts = (self.unit, self.variant)
        size = " ".join(parts[::-1] if self.product.language == "english" else parts).strip()
        return f"{self.name} ({size})" if self.variant else self.name


def all_distinct(lines: Sequence[Line]) -> bool:
    """Whether no two lines read the same but for case."""
    return len({line.text.lower() for line in lines}) == len(lines)


@cache
def load(language: str) -> tuple[Product, ...]:
    """All products of a language, in file order; of a name's words the head noun is marked with a star."""
    products = []
    path = resources.files("cartlm.data") / "lexicons" / f"{language}.tsv"
    with path.open(encoding="utf-8") as file:
        for row in csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE):
            forms = {form: row[column].replace("*", "") for form, column in _FORMS[language].items()}
            marked = row[next(iter(_FORMS[language].values()))]
            name, head = marked.replace("*", ""), [word[:1] for word in marked.split(" ")].index("*")
            units, variants = (tuple(filter(None, row[key].split("|"))) for key in ("units", "variants"))
            gender, content = row.get("gender", ""), row["content"]
            products.append(
                Product(language, row["domain"], name, head, forms, gender, units, content, variants)
            )
    return tuple(products)


def is_novel(key: str) -> bool:
    """Whether a product is kept from training for the novel slice: one in six, whatever else the lexicon holds."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") % 6 == 0
