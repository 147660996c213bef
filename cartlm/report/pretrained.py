"""docs/paper.md on the studies: verdicts for small pretrained models, and where accuracy collapses by model size."""

from __future__ import annotations

from collections.abc import Sequence

from cartlm.evaluation.paired import Difference, against_f16, format_points, read_outcomes_of
from cartlm.evaluation.statistics import ALPHA
from cartlm.report import cells, paper
from cartlm.report.models import Model

TEN = 0.10
"""A loss of so much is called a cliff; the paper's at Q3_K_M is 39 points."""


def sections(models: Sequence[Model]) -> list[str]:
    """Markdown of the parts that rest on studies; none without a study."""
    if len(models) < 2:
        return []
    claims = [part for model in models if model.pretrained for part in claims_of(model)]
    lead = (
        "## Pretrained models\n\nHere the paper's shares get a verdict: whether another pretrained model does what the paper "
        "reports of Llama 3.2 1B on its own rows. The heading of each model names its rows. "
        "[All numbers of the studies](studies.md)."
    )
    return [*([lead] if claims else []), *claims, *cliff(models)]


def claims_of(model: Model) -> list[str]:
    """The table of one pretrained model: shares and losses of the paper beside its own."""
    rows = []
    for figure in paper.figures()[1]:
        if figure.kind in ("share", "loss") and paper.measure(figure, model.metrics):
            measured = paper.Measured(model.name, model.dataset)
            rows.append(paper.row(figure, model.metrics, measured, paper=measured))
    older = "Measured with other code or params than today's (`cartlm stale`)." if model.late else ""
    text = f"{model.origin}; {model.dataset}. {older}".rstrip()
    return [f"### {model.name}", text, cells.markdown(paper.COLUMNS, rows)] if rows else []


def cliff(models: Sequence[Model]) -> list[str]:
    """What each variant of each model loses of F16's exact match, and at how many bits per weight."""
    losses = {model.name: differences(model) for model in models}
    order = {variant: bits for model in reversed(models) for variant, bits in model.bits.items()}
    found = {variant for of_model in losses.values() for variant in of_model}
    rows = []
    for variant in sorted(found, key=lambda name: (-order.get(name, 0.0), name)):
        row = {"variant": variant}
        for model in models:
            if each := losses[model.name].get(variant):
                row[points(model)] = format_points(each)
                row[f"bits, {model.name}"] = cells.number(model.bits.get(variant))
        rows.append(row)
    if not rows:
        return []
    shown = [model for model in models if losses[model.name]]
    columns = ["variant", *(key for model in shown for key in (points(model), f"bits, {model.name}"))]
    notes = [f"- `{model.name}` ({model.size}): {finding(model, losses[model.name])}." for model in shown]
    return [
        "## Where the cliff is, by size of the model",
        "What each variant loses of exact match against F16 of the same model, row by row, in percentage points with "
        "Newcombe's interval; and its bits per weight, over the whole file.",
        cells.markdown(columns, rows),
        "\n".join(notes),
    ]


def points(model: Model) -> str:
    return f"{model.label}: points [95 %]"


def differences(model: Model) -> dict[str, Difference]:
    """Variant -> its exact match against F16, paired by row."""
    return {each.variant: each for each in against_f16(read_outcomes_of(model.metrics, model.variants))}


def finding(model: Model, losses: dict[str, Difference]) -> str:
    """From which variant on, by bits, a loss is measured, and from which on it is ten points or more."""
    # Without bits there is no order to say "from" in.
    ordered = sorted((name for name in losses if name in model.bits), key=lambda name: -model.bits[name])
    lost = [name for name in ordered if losses[name].high < 0 and losses[name].p_adjusted < ALPHA]
    ten = [name for name in lost if losses[name].pairs.difference <= -TEN]
    if not lost:
        return f"none of {len(losses)} quantized variants loses exact match measurably"
    first = f"the first to lose measurably is {named(model, lost[0])}"
    if not ten:
        return f"{first}; none loses ten points"
    return f"{first}, the first to lose ten points or more {named(model, ten[0])}"


def named(model: Model, variant: str) -> str:
    return f"`{variant}` ({cells.number(model.bits[variant])} bits per weight)"
