"""What `cartlm recommend` prints: the choice or the front, as text and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cartlm.bench.ways import FREE, JUMP
from cartlm.evaluation.paired import BASELINE, format_p, signed_points
from cartlm.metrics import rounded
from cartlm.recommend.choice import (
    KNEE,
    RULE,
    Bounds,
    Choice,
    Elsewhere,
    Gap,
    against_f16,
    crossed,
    front,
    knee,
    misses,
)  # fmt: skip
from cartlm.recommend.measured import ACCURACY, COSTS, NAMES, P95, UNITS, Candidate, Decoding, Measured
from cartlm.report import cells

TABLE = ("variant", ACCURACY, *COSTS)
ROWS = {"test": "test rows", "natural": "messages typed by people"}


def commands(measured: Measured, name: str) -> list[str]:
    """What runs a variant so, and what packs it for elsewhere."""
    if name == BASELINE:  # no decoding changes its answers, and it is no model to export
        return [f"cartlm serve {name}"]
    serve = serving(name, measured.decoding)
    return [serve] if measured.decoding == "ensemble" else [serve, f"cartlm export {name} FOLDER"]


def serving(name: str, decoding: Decoding) -> str:
    """The command that answers so; only this repository has what an ensemble needs, an export has no baseline."""
    return f"cartlm serve {name} --decoding {decoding}"


def notes(measured: Measured) -> list[str]:
    """What is compared, and what is not."""
    found = [
        f"Accuracy: exact match of {measured.n:,} {ROWS[measured.rows]}, {measured.decoding} decoding ({BASELINE}: its own answers).",
        f"Latency, memory and size: {measured.target}, always free decoding, one query at a time, on {measured.machine}.",
        here(measured),
    ]
    if measured.decoding == "constrained" and (jump := measured.ways.get(JUMP)):
        found.append(
            f"Of {measured.ways['model']['variant']}, constrained decoding takes {cells.number(jump[f'warm_to_{FREE}'])} of free decoding's "
            f"time where the catalog is known, {cells.number(jump[f'cold_to_{FREE}'])} where it is new (docs/decoding.md)."
        )
    if measured.decoding == "ensemble":
        found.append(
            f"The ensemble runs {BASELINE} beside the model; its time, memory and file are not in these figures. "
            "An export has no baseline: the ensemble is served from this repository (docs/howto/deploy.md)."
        )
    if measured.left_out:
        reasons = ", ".join(f"{name} ({why})" for name, why in measured.left_out.items())
        found.append(f"Left out: {reasons}.")
    return found


def here(measured: Measured) -> str:
    """Which machine a target is."""
    details, cores = measured.details, ""
    if {"threads", "cores_logical"} <= details.keys():
        cores = f", {details['threads']} threads on {details['cores_logical']} logical cores"
    again = "; make bench measures yours" if measured.target == "cpu" else ""
    return f"The target {measured.target} is this one machine{cores}{again}."


def choice_text(measured: Measured, choice: Choice, bounds: Bounds, better: Elsewhere | None) -> str:
    """The choice, why, what it leaves behind, what would be `better`, and the table of all that competed."""
    winner, gaps = choice.winner, choice.gaps.values()
    shown = ", ".join(winner.shown(key) for key in (ACCURACY, *COSTS))
    lines = [f"{winner.name}: {shown}", "", *(f"  {line}" for line in commands(measured, winner.name)), ""]
    lines += [f"Rule: {RULE}.", f"Why: {why(measured, choice)}"]
    for key in crossed(winner, bounds):
        lines.append(
            f"Near a bound: {winner.shown(key)} fits, but its interval crosses {bounds[key]:g}{UNITS[key]}."
        )
    lines.append(f"Dominates, nowhere worse and somewhere better: {', '.join(choice.dominated) or 'none'}.")
    for words, kept in {
        "Too close to call in accuracy": [each for each in gaps if each.close],
        "Measurably more accurate, but slower or larger": [
            each for each in gaps if not each.close and not each.worse
        ],
        "Measurably less accurate": [each for each in gaps if each.worse],
    }.items():
        if kept:
            lines.append(f"{words}: {'; '.join(map(gap_words, kept))}.")
    if gaps:
        lines.append(tested(choice))
    lines += beside(measured, winner, better)
    rows = [{**each.row, "fits": fits(each, bounds)} for each in measured.candidates]
    return "\n".join([*lines, "", cells.aligned((*TABLE, "fits"), rows), "", *notes(measured)])


def beside(measured: Measured, chosen: Candidate, better: Elsewhere | None) -> list[str]:
    """The chosen variant against F16, and what another way of decoding gains."""
    lines = []
    if gap := against_f16(measured, chosen):
        lines.append(f"Against f16 by the same decoding: {gap_words(gap)}.")
    return [*lines, more_accurate(better)] if better else lines


def more_accurate(better: Elsewhere) -> str:
    """What another way of decoding gains, and the command that answers so."""
    return (
        f"More accurate in another decoding mode: {gap_words(better.gap)}; {better.winner.name}, {better.winner.shown(P95)} of free "
        f"decoding: {serving(better.winner.name, better.decoding)}"
    )


def why(measured: Measured, choice: Choice) -> str:
    """How the rule came to its winner."""
    count = f"{len(choice.fitting)} of {len(measured.candidates)} fit"
    if len(choice.fitting) == 1:
        return f"{count}."
    parts = [f"{count}; {choice.top.name} is the most accurate of them, {choice.top.shown(ACCURACY)}"]
    if choice.winner is not choice.top:
        parts.append(f"{choice.winner.name} is not measurably below it")
    if choice.fastest is choice.winner:
        parts.append(
            "it is the fastest of those level with it"
            if choice.winner is choice.top
            else "it is the fastest of those"
        )
    else:
        parts.append(
            f"its p95 overlaps that of the fastest of those, {choice.fastest.name} ({choice.fastest.shown(P95)}), and its file is smaller"
        )
    return "; ".join(parts) + "."


def gap_words(gap: Gap) -> str:
    """As `q8_0 +0.4 points [-1.2, +2.0], p 0.62`."""
    value, low, high = map(signed_points, gap.difference)
    return f"{gap.name} {value} points [{low}, {high}]" + ("" if gap.p is None else f", p {format_p(gap.p)}")


def tested(choice: Choice) -> str:
    """What the differences rest on."""
    unpaired = [each.name for each in choice.gaps.values() if each.p is None]
    test = f"Differences to {choice.winner.name}: McNemar's exact test of the same rows, Holm-adjusted, and Newcombe's interval."
    if not unpaired:
        return test
    no_rows = "no answers are stored row by row, so these rest on the two intervals alone, which tell less than a paired test"
    if len(unpaired) == len(choice.gaps):
        return f"Differences to {choice.winner.name}: {no_rows}."
    return f"{test} Of {', '.join(unpaired)} {no_rows}."


def fits(candidate: Candidate, bounds: Bounds) -> str:
    """Whether a variant fits, which bounds it misses, and which of the bounds its intervals cross."""
    missed = misses(candidate, bounds)
    text = f"no: {', '.join(NAMES[key] for key in missed)}" if missed else "yes"
    near = crossed(candidate, bounds)
    return f"{text} (unsure: {', '.join(NAMES[key] for key in near)})" if near else text


def front_text(measured: Measured, better: Elsewhere | None) -> str:
    """The Pareto front, its knee, what it leaves behind, and what would be more accurate than the knee."""
    kept = front(measured.candidates)
    at = knee(kept)
    rows = [{**each.row, "knee": "<-" if each is at else ""} for each in kept]
    behind = [
        f"{each.name} (by {', '.join(other.name for other in kept if other.dominates(each))})"
        for each in measured.candidates
        if each not in kept
    ]
    lines = ["Pareto front: no other variant is as good in all four and better in one.", ""]
    lines += [cells.aligned((*TABLE, "knee"), rows), "", f"Knee: {at.name}, {KNEE}."]
    lines += [f"Dominated: {', '.join(behind)}."] if behind else []
    lines += ["The front takes the values as they are; with a bound, what is too close to call is said."]
    lines += [*beside(measured, at, better), ""]
    return "\n".join([*lines, *(f"  {line}" for line in commands(measured, at.name)), "", *notes(measured)])


def as_json(
    measured: Measured, choice: Choice | None, bounds: Bounds, better: Elsewhere | None
) -> dict[str, Any]:
    """All of it for programs; without a choice the front."""
    kept = front(measured.candidates)
    chosen = choice.winner if choice else knee(kept)
    name, gap = chosen.name, against_f16(measured, chosen)
    found: dict[str, Any] = {
        "target": measured.target,
        "machine": measured.machine,
        "decoding": measured.decoding,
        "rows": measured.rows,
        "n": measured.n,
        "bounds": dict(bounds),
    }
    if choice:
        found |= {
            "rule": RULE,
            "winner": name,
            "most_accurate": choice.top.name,
            "fastest": choice.fastest.name,
            "dominates": [*choice.dominated],
            "too_close_to_call": [gap.name for gap in choice.gaps.values() if gap.close],
            "differences": {gap.name: _gap(gap) for gap in choice.gaps.values()},
        }
    else:
        found |= {"front": [each.name for each in kept], "knee": name, "knee_is": KNEE}
    found |= {"against_f16": _gap(gap)} if gap else {}
    if better:
        found["more_accurate"] = {
            "decoding": better.decoding,
            **_gap(better.gap),
            **better.winner.row,
            "commands": [serving(better.winner.name, better.decoding)],
        }
    return found | {
        "commands": commands(measured, name),
        "variants": [_variant(each, bounds) for each in measured.candidates],
        "left_out": dict(measured.left_out),
        "notes": notes(measured),
    }


def _gap(gap: Gap) -> dict[str, Any]:
    value, low, high = map(rounded, gap.difference)
    paired = {} if gap.p is None else {"p_holm": rounded(gap.p)}
    return {"difference": value, "low": low, "high": high, "paired": gap.p is not None, **paired}


def _variant(each: Candidate, bounds: Bounds) -> dict[str, Any]:
    judged: dict[str, Sequence[str]] = {
        "misses": [*misses(each, bounds)],
        "interval_crosses": crossed(each, bounds),
    }
    return {**each.row, **(judged if bounds else {})}
