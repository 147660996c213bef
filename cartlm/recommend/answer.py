"""What `cartlm recommend` prints: the choice or the front, as text and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cartlm.bench.ways import FREE, JUMP
from cartlm.evaluation.paired import BASELINE, format_p, signed_points
from cartlm.metrics import rounded
from cartlm.recommend.choice import KNEE, RULE, Bounds, Choice, Gap, crossed, front, knee, misses
from cartlm.recommend.measured import ACCURACY, COSTS, NAMES, P95, UNITS, Candidate, Measured
from cartlm.report import cells

TABLE = ("variant", ACCURACY, *COSTS)
ROWS = {"test": "test rows", "natural": "messages that people typed"}


def commands(measured: Measured, name: str) -> list[str]:
    """What runs a variant so, and what packs it for elsewhere."""
    if name == BASELINE:  # no decoding changes its answers, and it is no model to export
        return [f"cartlm serve {name}"]
    return [f"cartlm serve {name} --decoding {measured.decoding}", f"cartlm export {name} FOLDER"]


def notes(measured: Measured) -> list[str]:
    """What is compared, and what is not."""
    found = [
        f"Accuracy: exact match of {measured.n:,} {ROWS[measured.rows]}, {measured.decoding} decoding ({BASELINE}: its own answers).",
        f"Latency, memory and size: {measured.target}, always free decoding, one query at a time, on {measured.machine}.",
    ]
    if measured.decoding == "constrained" and (jump := measured.ways.get(JUMP)):
        found.append(
            f"Of {measured.ways['model']['variant']}, constrained decoding takes {cells.number(jump[f'warm_to_{FREE}'])} of free decoding's "
            f"time where the catalog is known, {cells.number(jump[f'cold_to_{FREE}'])} where it is new (docs/decoding.md)."
        )
    if measured.decoding == "ensemble":
        found.append(
            f"The ensemble runs {BASELINE} beside the model; its time, memory and file are not in these figures."
        )
    if measured.left_out:
        reasons = ", ".join(f"{name} ({why})" for name, why in measured.left_out.items())
        found.append(f"Left out: {reasons}.")
    return found


def choice_text(measured: Measured, choice: Choice, bounds: Bounds) -> str:
    """The choice, why, what it leaves behind, and the table of all that competed."""
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
    rows = [{**each.row, "fits": fits(each, bounds)} for each in measured.candidates]
    return "\n".join([*lines, "", cells.aligned((*TABLE, "fits"), rows), "", *notes(measured)])


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


def front_text(measured: Measured) -> str:
    """The Pareto front, its knee, and what it leaves behind."""
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
    lines += ["The front takes the values as they are: whether two are too close to call, a bound tells.", ""]
    return "\n".join([*lines, *(f"  {line}" for line in commands(measured, at.name)), "", *notes(measured)])


def as_json(measured: Measured, choice: Choice | None, bounds: Bounds) -> dict[str, Any]:
    """All of it for programs; without a choice the front."""
    kept = front(measured.candidates)
    name = choice.winner.name if choice else knee(kept).name
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
