"""Products with the word forms that a message needs, read from the lexicon files."""

from __future__ import annotations

import csv
import hashlib
from dataclasses import dataclass
from functools import cache
from importlib import resources

LANGUAGES = ("english", "croatian", "spanish")
_SMALL_WORDS = {"of", "for", "with", "and", "to", "in", "on", "a", "the"}


@dataclass(frozen=True)
class Product:
    """One lexicon entry.

    `forms` holds every inflected form of the name, word for word parallel: English and Spanish `one`
    and `many`; Croatian `nom`, `acc`, `gen`, `paucal` (after 2-4) and `gen_pl` (after 5 and more).
    `head` is the index of the head noun in each of them. `content` is the form after a unit
    ("bottle of ..."). Plural-only things ("hlače") have no counted form and need a unit.
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
    def plural_only(self) -> bool:
        return self.gender in ("mp", "fp", "np") or self.units == ("pair",)


@dataclass(frozen=True)
class Line:
    """A product as one catalog line: `Coconut Water (330ml can)`."""

    product: Product
    variant: str
    unit: str

    @property
    def text(self) -> str:
        name = self.product.name
        if self.product.language == "english":
            words = [
                w if i and w in _SMALL_WORDS else w[:1].upper() + w[1:] for i, w in enumerate(name.split(" "))
            ]
            name, size = " ".join(words), f"{self.variant} {self.unit}".strip()
        else:
            name, size = name[:1].upper() + name[1:], f"{self.unit} {self.variant}".strip()
        return f"{name} ({size})" if self.variant else name


def _split(cell: str) -> tuple[str, ...]:
    return tuple(part for part in cell.split("|") if part)


@cache
def load(language: str) -> tuple[Product, ...]:
    """All products of a language, in file order. Raises ValueError naming a broken line."""
    name_column, forms = {
        "english": ("singular", {"one": "singular", "many": "plural"}),
        "spanish": ("singular", {"one": "singular", "many": "plural"}),
        "croatian": (
            "nom",
            {"nom": "nom", "acc": "acc", "gen": "gen", "paucal": "paucal", "gen_pl": "gen_pl"},
        ),
    }[language]
    products = []
    with (resources.files("cartlm.data") / "lexicons" / f"{language}.tsv").open(encoding="utf-8") as file:
        for number, row in enumerate(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE), 2):
            marked = row[name_column].split(" ")
            heads = [index for index, word in enumerate(marked) if word.startswith("*")]
            inflected = {form: row[column].replace("*", "") for form, column in forms.items()}
            lengths = {len(text.split(" ")) for text in inflected.values() if text}
            if len(heads) != 1 or lengths != {len(marked)}:
                raise ValueError(f"{language}.tsv:{number}: {row[name_column]!r}: head or forms do not fit")
            products.append(
                Product(
                    language,
                    row["domain"],
                    inflected["nom" if language == "croatian" else "one"],
                    heads[0],
                    inflected,
                    row.get("gender", ""),
                    _split(row["units"]),
                    row["content"],
                    _split(row["variants"]),
                )
            )
    return tuple(products)


def bucket(key: str, buckets: int) -> int:
    """A bucket in [0, buckets) that depends on `key` alone: it stays when a lexicon grows."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") % buckets


def is_novel(key: str) -> bool:
    """Whether a product or a phrase template is kept from training for the `novel` slice (one in six)."""
    return bucket(key, 6) == 0
