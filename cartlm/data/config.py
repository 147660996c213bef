"""Params of the rows."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from cartlm.config import Count, Section, Seed, Share, Tokens
from cartlm.data.roles import TEST
from cartlm.engines.config import Server
from cartlm.task.config import Language


class Catalog(Section):
    min_lines: Count
    max_lines: Count
    twins: Share  # share of catalogs with near-twins of one product

    @model_validator(mode="after")
    def _ordered(self) -> Catalog:
        if self.max_lines < self.min_lines:
            raise ValueError(f"max_lines {self.max_lines} is less than min_lines {self.min_lines}")
        return self


class Wording(Section):
    """Rates of styles, quantity forms and name forms, each among the messages to which it applies.

    docs/data.md has the resulting shares of all messages.
    """

    polite: Share
    rambling: Share
    correcting: Share  # the rest is terse
    quantity_word: Share  # a number word, where no other form is taken
    quantity_pack: Share  # "a dozen", where the quantity (2, 6, 12, 24) has such a word and is not corrected
    quantity_none: Share  # where the quantity is 1 and not corrected
    name_full: Share
    name_short: Share
    name_part: Share  # of the rows whose catalog holds near-twins
    switch_frame: Share  # the frame is in the row's language, catalog and product are in another
    switch_number: Share  # a number word in another language, where frame and product share one

    @model_validator(mode="after")
    def _shares(self) -> Wording:
        for names in (("polite", "rambling", "correcting"), ("name_full", "name_short")):
            total = sum(getattr(self, name) for name in names)
            if total > 1 + 1e-9:
                raise ValueError(f"{' + '.join(names)} = {total:g} is more than 1")
        return self


class Everyday(Section):
    """Rates of messages worded as people type orders (cartlm/data/everyday.py), each among the messages to which it applies.

    docs/data.md has the resulting shares of all messages.
    """

    share: Share  # of all messages; data.wording words the rest
    menus: Share  # their catalog is a menu, whose lines share most words
    spelled: Share  # their catalog writes names in its own way: capitals inside words, one case throughout
    signs: Share  # their catalog has names with "&" and the like, which messages leave out; none of those spelled
    bare: Share  # the product alone, which means add
    aside: Share  # a reason or a statement instead of an order
    behind: Share  # the number behind the name
    collective: Share  # a set: "half a dozen"
    approximate: Share  # "about ten", where more than two
    more: Share  # "another two", "one more"
    quantity_none: Share  # where the quantity is 1
    described: Share  # a property, or what the twin is not, where that points at one line
    synonym: Share  # an everyday word, where there is one
    some_words: Share  # a part of the name, where that points at one line
    name_full: Share  # the catalog line; the rest is inflected
    lower_case: Share  # typed without capitals and mostly without full stops


class Noise(Section):
    """Rates of the noise operators; see cartlm/data/noise.py for what each one does."""

    clean: Share  # messages that no operator touches
    typo: Share  # of the noisy messages: neighbouring key, dropped, doubled or swapped letters
    max_typos: Count
    slang: Share
    lower_case: Share
    joined_words: Share
    diacritics_all: Share  # of the noisy Croatian and Spanish messages: all dropped
    diacritics_mixed: Share


class Gates(Section):
    """Limits of the quality gates, which stop the stage."""

    balance: Share  # largest relative distance of an action's or language's share from equal
    template_share: Share
    distinct_2: Share
    near_duplicate: Share  # similarity of messages (0 to 1) at which two splits share a row
    twins: Share  # least share of catalogs with near-twins


class Worded(Server):
    """`data.source: openai`: the model that words our labels (cartlm/data/generated.py)."""

    prompts: Count  # generation prompts a language
    examples: Count  # messages of one answer
    # by the operators of data.noise, or by the model, but for data.noise.clean
    noise: Literal["ours", "asked"]
    structured: bool  # OpenAI's structured outputs; false for servers without them
    batch: bool  # the Batch API: cheaper, within 24 hours
    max_tokens: Tokens  # of one answer
    max_requests: Count | None  # new requests of one run; null: no limit
    max_total_tokens: Count | None  # their tokens, prompts and answers


class Data(Section):
    source: Literal["rules", "openai", "hub", "file"]
    # hub: dataset id or a local folder in hub layout; file: JSONL, CSV, ..., or a folder of them
    path: str | None
    revision: str | None
    # another published dataset, evaluated apart, such as jtlicardo/ecommerce-intent-eval
    held_out: str | None
    held_out_revision: str | None
    show_rows: bool  # rows of source hub and file in docs/data.md, which git tracks; ours are always shown
    seed: Seed
    train: Count
    validation: Count
    calibration: Count
    test: Count
    novel: Share  # share of test rows whose product and template never occur in training
    # messages that are no order, of all rows in train, validation and calibration; 0: none. They come on top: the orders,
    # whose numbers stand above, stay the same. With decoding.none
    none: Annotated[float, Field(ge=0.0, le=0.9)]
    languages: Annotated[list[Language], Field(min_length=1)]
    # those of train, validation and calibration, for sources rules and openai; null: `languages`
    train_languages: Annotated[list[Language], Field(min_length=1)] | None
    catalog: Catalog
    wording: Wording
    everyday: Everyday
    noise: Noise
    gates: Gates
    openai: Worded

    @model_validator(mode="after")
    def _consistent(self) -> Data:
        if self.calibration > self.train:
            raise ValueError(
                f"calibration {self.calibration}, a part of train, is more than train {self.train}"
            )
        if self.none and self.source != "rules":
            raise ValueError(f"none {self.none:g} is for source rules; {self.source} has its own rows")
        for name, languages in (
            ("languages", self.languages),
            ("train_languages", self.train_languages or []),
        ):
            if len(set(languages)) < len(languages):
                raise ValueError(f"{name} {languages} names one twice")
        if self.train_languages is None:
            return self
        if self.source in ("hub", "file"):
            raise ValueError(
                f"train_languages {self.train_languages} is for sources rules and openai; {self.source} has its own rows"
            )
        if unknown := [name for name in self.train_languages if name not in self.languages]:
            raise ValueError(f"train_languages has {unknown[0]}, which languages {self.languages} lacks")
        return self

    def languages_of(self, split: str) -> list[Language]:
        """The languages of a generated split: all of them in test, `train_languages` in those that a model is fitted on."""
        return self.languages if split == TEST else self.train_languages or self.languages

    def with_everyday(self, **rates: float) -> Data:
        """These params with other rates of everyday messages, such as `share`."""
        return self.model_copy(update={"everyday": self.everyday.model_copy(update=rates)})
