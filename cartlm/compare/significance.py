"""Which timings of a comparison differ by more than chance: many tests, as one family for each hardware target."""

from __future__ import annotations

from cartlm.compare import timings
from cartlm.compare.drift import TIMED, Drift, on_one_machine, without
from cartlm.compare.load import Side
from cartlm.compare.rules import judged, place
from cartlm.evaluation.statistics import holm

Adjusted = dict[tuple[str, str], float]
"""File and key -> adjusted p-value."""


def p_values(old: Side, new: Side, controls: Drift | None) -> Adjusted:
    """The timings with rounds and intervals that both sides measured; with `controls` each beside those of the others.

    In two steps, as the timings of a variant tell much the same: does the variant differ at all, by all its timings
    together, Holm-adjusted over the variants of the target; and if so, in which timing, Holm-adjusted over those of the
    variant, or one true change would let its others pass unadjusted. The larger of the two is the timing's.
    """
    targets: dict[str, dict[str, Adjusted]] = {}
    for file, before, after in on_one_machine(old, new):
        target, variant = place(file)
        for key, kind, _ in judged(before, after, target):
            shift = controls.of(target, variant, key) if controls else None
            first, second = timings.of(before, key), timings.of(without(shift, after, key), key)
            if kind in TIMED and first and second and before[key] != after[key]:
                p = timings.welch(first, second, shift.error if shift else 0.0)
                targets.setdefault(target, {}).setdefault(variant, {})[file, key] = p
    adjusted: Adjusted = {}
    for variants in targets.values():
        together = holm([timings.cauchy_combination(list(found.values())) for found in variants.values()])
        for found, p in zip(variants.values(), together, strict=True):
            each = zip(found, holm(list(found.values())), strict=True)
            adjusted |= {where: max(p, own) for where, own in each}
    return adjusted
