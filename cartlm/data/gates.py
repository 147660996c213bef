"""Quality gates that stop the data stage, and the figures of metrics/data.json."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from cartlm.data.config import Data
from cartlm.data.near_duplicates import nearest
from cartlm.errors import UserError
from cartlm.task.intent import ACTIONS
from cartlm.task.rows import Row

Section = dict[str, int | float | str]
Metrics = dict[str, Section]


def distinct_n(texts: Iterable[str], n: int) -> float:
    """Distinct word n-grams over all word n-grams (Li et al. 2016, arXiv 1510.03055)."""
    grams: Counter[tuple[str, ...]] = Counter()
    for text in texts:
        tokens = text.lower().split()
        grams.update(zip(*(tokens[i:] for i in range(n)), strict=False))
    return len(grams) / max(1, grams.total())


def has_twins(row: Row) -> bool:
    """Whether two catalog lines differ only in size."""
    names = [line.split(" (")[0].lower() for line in row.catalog]
    return len(set(names)) < len(names)


def check(splits: Mapping[str, Sequence[Row]], data: Data) -> Metrics:
    """All gates over train, validation and test; figures for metrics/data.json.

    Raises UserError naming gate, offender and value. Gates on balance and wording (templates, distinct-2, near-twins) hold
    only for the offline source, whose params can change them; leaks are refused for every source.
    """
    train, validation, test = splits["train"], splits["validation"], splits["test"]
    for name, rows in splits.items():
        if not rows:
            raise _stop(f"{name} holds no usable row")
        (id, count), *_ = Counter(row.id for row in rows).most_common(1)
        if count > 1:
            raise _stop(f"{name}: id {id} occurs twice")
    metrics: Metrics = {name: {"n": len(rows)} for name, rows in splits.items()}
    if data.source == "rules":
        for name in ("train", "test"):
            _check_balance(name, splits[name], data)
    metrics["train"] |= _wording_figures(train, data)
    # a published dataset without a test is evaluated on its validation rows, as in the paper
    tested = {row.id for row in test}
    apart = [row for row in validation if row.id not in tested]
    for name, rows, others in (("test", test, [*train, *apart]), ("validation", validation, train)):
        best, where = nearest(rows, others, data.gates.near_duplicate)
        if (best >= data.gates.near_duplicate).any():
            at = int(best.argmax())
            row, other = rows[at], others[where[at]]
            alike = f"a near-duplicate of {other.id} {other.message!r} ({best[at]:.2f})"
            raise _stop(f"{name}: {row.id} {row.message!r} is {alike}")
    metrics |= {"test_shares": _shares(test), "train_shares": _shares(train)}
    check_novel([*train, *validation], test)
    return metrics


def _stop(what: str) -> UserError:
    return UserError(what, "adjust data in params.yaml, then dvc repro data")


def _check_balance(name: str, rows: Sequence[Row], data: Data) -> None:
    """Raise UserError naming the action or language whose share is too far from equal (relatively)."""
    actions, languages = [row.intent.action for row in rows], [row.language for row in rows]
    for values, kinds in ((actions, ACTIONS), (languages, data.languages_of(name))):
        equal = len(rows) / len(kinds)
        distance, kind = max((abs(values.count(kind) - equal) / equal, kind) for kind in kinds)
        if distance > data.gates.balance:
            limit = data.gates.balance
            raise _stop(f"{name}: {kind} is {distance:.1%} from an equal share, beyond {limit:.0%}")


def _wording_figures(train: Sequence[Row], data: Data) -> Section:
    """Figures of templates, distinct-2 and near-twins; UserError where the offline source's are beyond a gate."""
    gates, ours, figures = data.gates, data.source == "rules", Section()
    templates = Counter(row.tags["template"] for row in train if "template" in row.tags)
    for template, count in templates.most_common(1):
        share = count / len(train)
        if ours and share > gates.template_share:
            raise _stop(f"template {template!r} has {share:.1%} of train, beyond {gates.template_share:.0%}")
        figures |= {"template_share": share, "templates": len(templates)}
    diversity = distinct_n((row.message for row in train), 2)
    if ours and diversity < gates.distinct_2:
        raise _stop(f"distinct-2 of train is {diversity:.3f}, below {gates.distinct_2}")
    twins = sum(map(has_twins, train)) / len(train)
    if ours and twins < gates.twins:
        raise _stop(f"{twins:.1%} of the catalogs have near-twins, below {gates.twins:.1%}")
    return figures | {"distinct_2": diversity, "catalogs_with_twins": twins}


def held_out_figures(rows: Sequence[Row], train: Sequence[Row], threshold: float) -> Section:
    """Size of a set that is evaluated apart, and how many of its rows have a near-duplicate in training."""
    best, _ = nearest(rows, train, threshold)
    return {"n": len(rows), "near_duplicates_in_train": int((best >= threshold).sum())}


def check_novel(seen: Sequence[Row], test: Sequence[Row]) -> None:
    """Raise UserError where a novel test row's product or template occurs in training."""
    lines = {line.split(" (")[0] for row in seen for line in row.catalog}
    templates = {row.tags.get("template") for row in seen}
    for row in test:
        if row.tags.get("novel") and row.intent.product.split(" (")[0] in lines:
            raise _stop(f"{row.id}: novel product {row.intent.product!r} occurs in training")
        if row.tags.get("novel") and row.tags["template"] in templates:
            raise _stop(f"{row.id}: novel template {row.tags['template']!r} occurs in training")


def _shares(rows: Sequence[Row]) -> Section:
    """Shares of languages, actions, and every tag with few values."""
    values = {"language": [row.language for row in rows], "action": [row.intent.action for row in rows]}
    for tag in (
        "phrasing", "lines", "spelling", "style", "quantity_form", "name_form", "switch", "correction", "noise",
    ):  # fmt: skip
        if all(tag in row.tags for row in rows):
            values[tag] = [str(row.tags[tag]) for row in rows]
    if noise := values.get("noise"):
        values["noise"] = ["clean" if names == "clean" else "noisy" for names in noise]
        values["operator"] = [name for names in noise for name in names.split("+") if name != "clean"]
    shares: Section = {
        f"{prefix}_{value}": count / len(rows)
        for prefix, column in values.items()
        for value, count in sorted(Counter(column).items())
    }
    shares["catalog_lines_mean"] = sum(len(row.catalog) for row in rows) / len(rows)
    shares["novel"] = sum(bool(row.tags.get("novel")) for row in rows) / len(rows)
    return shares
