"""The first screen: for each hardware target, which file to ship, what it loses against F16, and how sure that is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from cartlm.errors import UserError
from cartlm.evaluation.paired import BASELINE, F16, format_p, signed_points
from cartlm.recommend import answer, choice, measured
from cartlm.recommend.choice import RULE, Choice, Gap
from cartlm.recommend.measured import ACCURACY, P95, RANDOM, RSS, SIZE, Candidate, Measured
from cartlm.report import cells, hardware
from cartlm.report.cells import Interval
from cartlm.report.summary import read_optional

GIB = 1024  # MiB of the bound on memory that the first screen speaks of
SURE = (
    "The intervals cover 95 %; that of a difference is Newcombe's. A p is of McNemar's exact test on the same rows, Holm-adjusted over "
    "the variants that are compared with F16, or over the ways of decoding; that of the baseline is of this one comparison."
)


@dataclass(frozen=True)
class Fact:
    """A figure of the recommendation with its name."""

    name: str
    value: str


@dataclass(frozen=True)
class Advice:
    """What to do on one target."""

    target: str
    machine: str
    ship: str  # the variant; empty where there is nothing to recommend
    sentence: str
    facts: Sequence[Fact] = ()
    more: Sequence[str] = ()
    commands: Sequence[str] = ()
    rule: str = ""


def targets(metrics: Path) -> list[str]:
    """The folders of metrics/bench, hardware with accuracies first."""
    found = [path.name for path in (metrics / "bench").glob("*") if path.is_dir()]
    return sorted(found, key=lambda name: (name.startswith(RANDOM), name))


def cores(metrics: Path, target: str) -> str:
    """The cores that a target's programs had, as its machine.json has them; empty where it does not."""
    threads = read_optional(metrics / "bench" / target / "machine.json").get("details", {}).get("threads")
    return f"{threads} CPU cores, " if threads else ""


def every(metrics: Path, variants: Sequence[str]) -> list[Advice]:
    """One for each target."""
    found = []
    for target in targets(metrics):
        try:
            if target.startswith(RANDOM):
                one = architecture(metrics, target)
            else:
                tested = measured.read(metrics, variants, target, None, "test")
                rivals = [BASELINE] if any(each.name == BASELINE for each in tested.candidates) else []
                ways = measured.other_ways(metrics, variants, tested, rivals)
                one = advice(tested, natural(metrics, variants, tested), ways)
            found.append(replace(one, machine=f"{cores(metrics, target)}{one.machine}"))
        except UserError as error:
            found.append(Advice(target, "", "", f"{error.message}."))
    return found


def natural(metrics: Path, variants: Sequence[str], tested: Measured) -> list[Measured]:
    """The same of messages that people typed, where these were asked."""
    try:
        return [measured.read(metrics, variants, tested.target, tested.decoding, "natural")]
    except UserError:
        return []


def advice(found: Measured, others: Sequence[Measured] = (), ways: Sequence[Measured] = ()) -> Advice:
    """The choice among the model files, and the baseline beside it; `others` are of other rows, `ways` of other decoding."""
    files = replace(found, candidates=[each for each in found.candidates if each.name != BASELINE])
    if not files.candidates:
        return Advice(found.target, found.machine, "", "No model file was measured.")
    best = choice.choose(files, {})
    winner = best.winner
    lost = choice.against_f16(files, winner)
    better = choice.elsewhere(files, winner, ways, {})
    sentence = (
        f"Of the model files, ship {winner.name} with {found.decoding} decoding: it answers {cells.with_interval(*winner[ACCURACY])} of the test rows "
        f"exactly, {lost_words(lost, winner.name)}."
    )
    facts = [
        Fact("exact match [95 %]", cells.with_interval(*winner[ACCURACY])),
        Fact("against F16", against(lost, winner.name)),
        Fact("p95 latency, free decoding [95 %]", f"{cells.with_interval(*winner[P95])} ms"),
        Fact("peak memory of the engine [95 %]", f"{cells.with_interval(*winner[RSS])} MiB"),
        Fact(f"file, models/{winner.name}", f"{cells.number(winner[SIZE].value)} MiB"),
    ]
    more = [
        memory(files.candidates),
        *how_sure(lost, winner.name, found.n),
        *([answer.more_accurate(better)] if better else []),
        *without_model(winner, [found, *others]),
        *closest(best),
    ]
    return Advice(
        found.target,
        found.machine,
        winner.name,
        sentence,
        facts,
        [*more, *answer.notes(found)],
        answer.commands(found, winner.name),
        f"{RULE}. {answer.why(files, best)}",
    )


def lost_words(lost: Gap | None, name: str) -> str:
    """The end of the sentence."""
    if lost is None:
        return "as the unquantized model itself" if name == F16 else "with no F16 to compare it with"
    p = "" if lost.p is None else f", p {format_p(lost.p)}"
    if lost.close:
        return f"nothing measurable lost against F16 ({points(lost.difference)}{p})"
    way = "fewer" if lost.worse else "more"
    return f"measurably {way} than F16 ({points(lost.difference)}{p})"


def how_sure(lost: Gap | None, name: str, n: int) -> list[str]:
    """The difference to F16 in words."""
    if lost is None:
        return []
    _, *limits = lost.difference
    low, high = (f"{abs(100 * each):.1f} points {'better' if each > 0 else 'worse'}" for each in limits)
    if lost.p is None:
        test = "no rows are stored, so both intervals alone say so"
    else:
        sees = "no" if lost.close else "a"
        test = f"McNemar's test of the same rows sees {sees} difference, p {format_p(lost.p)}"
    return [f"How sure: by {n:,} rows, {name} is between {low} and {high} than F16 (95 %); {test}."]


def against(lost: Gap | None, name: str) -> str:
    if lost is None:
        return "it is F16" if name == F16 else "not measured"
    return points(lost.difference)


def points(difference: Interval) -> str:
    value, low, high = map(signed_points, difference)
    return f"{value} points [{low}, {high}]"


def memory(files: Sequence[Candidate]) -> str:
    """Which files fit a machine with 1 GiB."""
    over = [each.name for each in files if each[RSS].high > GIB]
    most = max(files, key=lambda each: each[RSS].value)
    if not over:
        return f"With at most 1 GiB of memory, every file fits: {most.name} needs most, {cells.number(most[RSS].value)} MiB of the engine alone. A service takes more (docs/howto/deploy.md)."
    return f"With at most 1 GiB of memory, these do not fit: {', '.join(over)}."


def closest(best: Choice) -> list[str]:
    """What a test cannot tell from the winner, and what it can."""
    gaps = best.gaps.values()
    kinds: Mapping[str, list[Gap]] = {
        f"Too close to {best.winner.name} to call in accuracy": [each for each in gaps if each.close],
        f"Measurably less accurate than {best.winner.name}": [each for each in gaps if each.worse],
        f"Measurably more accurate than {best.winner.name}, but slower or larger": [
            each for each in gaps if not each.close and not each.worse
        ],
    }
    return [f"{words}: {'; '.join(map(answer.gap_words, kept))}." for words, kept in kinds.items() if kept]


def without_model(winner: Candidate, sets: Sequence[Measured]) -> list[str]:
    """The baseline beside the winner, on each set of rows that both answered."""
    told, fast = [], ""
    for found in sets:
        by_name = {each.name: each for each in found.candidates}
        if BASELINE in by_name and winner.name in by_name:
            (gap,) = choice.gaps(found.outcomes, by_name[winner.name], [by_name[BASELINE]]).values()
            judged = (
                "too close to call" if gap.close else f"measurably {'less' if gap.worse else 'more'} accurate"
            )
            p = "" if gap.p is None else f", p {format_p(gap.p)}"
            told.append(f"{judged} on {found.n:,} {answer.ROWS[found.rows]} ({points(gap.difference)}{p})")
            fast = by_name[BASELINE].shown(P95)
    if not told:
        return []
    return [
        f"Without a language model, {BASELINE} is {' and '.join(told)}; {fast}. By kind of message: Baseline, below."
    ]


def architecture(metrics: Path, target: str) -> Advice:
    """The fastest file of an architecture with random weights: speed and memory, no accuracy."""
    files = {
        name: file["cpu"]
        for name, file in measured.timings(metrics, target).items()
        if not name.startswith("transformers")
    }
    timed = {name: file for name, file in files.items() if P95 in file and RSS in file}
    machine = hardware.machine_names(hardware.measurements(metrics / "bench" / target, "cpu"))
    if not timed:
        return Advice(target, machine, "", "No GGUF file was measured.")
    name = min(timed, key=lambda each: timed[each][P95])
    values = {key: measured.interval(timed[name], key) for key in (P95, RSS, SIZE)}
    shown = {key: cells.with_interval(*value) for key, value in values.items() if value}
    over = [each for each, file in timed.items() if file.get(f"{RSS}_high", file[RSS]) > GIB]
    fits = f"with at most 1 GiB of memory, these do not fit: {', '.join(over)}" if over else "every file fits 1 GiB of memory"  # fmt: skip
    sentence = (
        f"Of {target.removeprefix(RANDOM)}, {name} is the fastest file: p95 {shown[P95]} ms, peak memory {shown[RSS]} MiB; {fits}. "
        "Its weights are random, so it has a speed and no accuracy."
    )
    return Advice(
        target, machine, "", sentence, [Fact("file", f"{shown.get(SIZE, '')} MiB")], commands=["make architecture"]
    )  # fmt: skip
