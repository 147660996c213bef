"""Quality gates: what stops the data stage, and the figures of metrics/data.json."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from cartlm.data.config import Data
from cartlm.data.near_duplicates import Index
from cartlm.errors import UserError
from cartlm.task.intent import ACTIONS
from cartlm.task.rows import Row

_HINT = "adjust data in params.yaml, then dvc repro data"
Metrics = dict[str, dict[str, int | float | str]]


def distinct_n(texts: Iterable[str], n: int) -> float:
    """Distinct word n-grams over all word n-grams (Li et al. 2016, arXiv 1510.03055)."""
    grams: Counter[tuple[str, ...]] = Counter()
    for text in texts:
        tokens = text.lower().split()
        grams.update(zip(*(tokens[i:] for i in range(n)), strict=False))
    return len(grams) / max(1, grams.total())


def worst_balance(values: Sequence[str], kinds: Sequence[str]) -> tuple[str, float]:
    """The kind whose share is farthest from equal, and that relative distance (0.05 is 5 %)."""
    counts = Counter(values)
    equal = len(values) / len(kinds)
    distances = {kind: abs(counts[kind] - equal) / equal for kind in kinds}
    worst = max(distances, key=lambda kind: distances[kind])
    return worst, distances[worst]


def comparable(row: Row) -> str:
    """What two rows must share to be near-duplicates: the wording together with the product it names."""
    return unicodedata.normalize("NFC", f"{row.message.lower()} | {row.intent.product.lower()}")


def nearest(rows: Sequence[Row], others: Sequence[Row], threshold: float) -> tuple[np.ndarray, np.ndarray]:
    """For each row the similarity of its nearest one of `others` (0 to 1; 0 below `threshold`), and where that is."""
    return Index([comparable(row) for row in others], threshold).best([comparable(row) for row in rows])


def has_twins(row: Row) -> bool:
    """Whether two catalog lines differ only in size: such twins have to be told apart by it."""
    names = [line.split(" (")[0].lower() for line in row.catalog]
    return len(set(names)) < len(names)


def check_balance(rows: Sequence[Row], languages: Sequence[str], limit: float, name: str) -> None:
    """Raise UserError naming the action or language whose share is beyond `limit` of equal."""
    for values, kinds in (
        ([row.intent.action for row in rows], ACTIONS),
        ([row.language for row in rows], languages),
    ):
        kind, distance = worst_balance(values, kinds)
        if distance > limit:
            raise UserError(
                f"{name}: {kind} is {distance:.1%} from an equal share, beyond {limit:.0%}", _HINT
            )


def check(splits: Mapping[str, Sequence[Row]], data: Data) -> Metrics:
    """All gates over train, validation and test; figures for metrics/data.json.

    Raises UserError naming gate, offender and value. Gates on balance and wording (templates, distinct-2,
    near-twins) hold for the offline source, whose params can change them; leaks are looked for everywhere.
    """
    train, validation, test = splits["train"], splits["validation"], splits["test"]
    gates = data.gates
    ours = data.source == "rules"
    for name, rows in splits.items():
        if not rows:
            raise UserError(f"{name} holds no usable row", _HINT)
        ids = Counter(row.id for row in rows)
        if ids.most_common(1)[0][1] > 1:
            raise UserError(f"{name}: id {ids.most_common(1)[0][0]} occurs twice", _HINT)
        for row in rows:
            if row.intent.product not in row.catalog:
                raise UserError(f"{name}: {row.id}: {row.intent.product!r} is not a catalog line", _HINT)
            if len(set(row.catalog)) != len(row.catalog):
                raise UserError(f"{name}: {row.id}: a catalog line occurs twice", _HINT)
    for name in ("train", "test"):
        if ours:
            check_balance(splits[name], data.languages, gates.balance, name)

    templates = Counter(str(row.tags["template"]) for row in train if "template" in row.tags)
    metrics: Metrics = {name: {"n": len(rows)} for name, rows in splits.items()}
    if templates:
        template, count = templates.most_common(1)[0]
        share = count / len(train)
        if ours and share > gates.template_share:
            raise UserError(
                f"template {template!r} has {share:.1%} of train, beyond {gates.template_share:.0%}", _HINT
            )
        metrics["train"]["template_share"] = share
        metrics["train"]["templates"] = len(templates)
    diversity = distinct_n((row.message for row in train), 2)
    if ours and diversity < gates.distinct_2:
        raise UserError(f"distinct-2 of train is {diversity:.3f}, below {gates.distinct_2}", _HINT)
    twins = sum(map(has_twins, train)) / len(train)
    if ours and twins < gates.twins:
        raise UserError(f"near-twins stand in {twins:.1%} of the catalogs, below {gates.twins:.1%}", _HINT)
    metrics["train"] |= {"distinct_2": diversity, "catalogs_with_twins": twins}

    # a published dataset without a test of its own is evaluated on its validation rows, as the paper did
    tested = {row.id for row in test}
    apart = [row for row in validation if row.id not in tested]
    for name, rows, others in (("test", test, [*train, *apart]), ("validation", validation, train)):
        best, where = nearest(rows, others, gates.near_duplicate)
        if (best >= gates.near_duplicate).any():
            at = int(best.argmax())
            raise UserError(
                f"{name}: {rows[at].id} {rows[at].message!r} is a near-duplicate of {others[where[at]].id} "
                f"{others[where[at]].message!r} ({best[at]:.2f})",
                _HINT,
            )
    metrics |= describe(test, "test_shares") | describe(train, "train_shares")
    if any(row.tags.get("novel") for row in test):
        check_novel([*train, *validation], test)
    return metrics


def apart(rows: Sequence[Row], train: Sequence[Row], threshold: float) -> dict[str, int | float | str]:
    """Number of rows of a set that is evaluated apart, and of those with a near-duplicate in training."""
    best, _ = nearest(rows, train, threshold)
    return {"n": len(rows), "near_duplicates_in_train": int((best >= threshold).sum())}


def check_novel(seen: Sequence[Row], test: Sequence[Row]) -> None:
    """Raise UserError where a novel test row's product or template occurs in training."""
    lines = {line.split(" (")[0] for row in seen for line in row.catalog}
    templates = {row.tags.get("template") for row in seen}
    for row in test:
        if row.tags.get("novel"):
            if row.intent.product.split(" (")[0] in lines:
                raise UserError(f"{row.id}: novel product {row.intent.product!r} occurs in training", _HINT)
            if row.tags["template"] in templates:
                raise UserError(
                    f"{row.id}: novel template {row.tags['template']!r} occurs in training", _HINT
                )


def describe(rows: Sequence[Row], name: str) -> Metrics:
    """Shares of languages, actions, and every tag with few values."""
    shares: dict[str, int | float | str] = {}

    def add(prefix: str, values: Sequence[str]) -> None:
        for value, count in sorted(Counter(values).items()):
            shares[f"{prefix}_{value}"] = count / len(rows)

    add("language", [row.language for row in rows])
    add("action", [row.intent.action for row in rows])
    for tag in ("style", "quantity_form", "name_form", "switch", "correction"):
        if all(tag in row.tags for row in rows):
            add(tag, [str(row.tags[tag]) for row in rows])
    if all("noise" in row.tags for row in rows):
        add("noise", ["clean" if row.tags["noise"] == "clean" else "noisy" for row in rows])
        operators = Counter(part for row in rows for part in str(row.tags["noise"]).split("+"))
        shares |= {f"operator_{key}": n / len(rows) for key, n in sorted(operators.items()) if key != "clean"}
    shares["catalog_lines_mean"] = sum(len(row.catalog) for row in rows) / len(rows)
    shares["novel"] = sum(bool(row.tags.get("novel")) for row in rows) / len(rows)
    return {name: shares}
