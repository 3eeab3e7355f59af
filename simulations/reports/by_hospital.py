"""Each hospital alone beside its federation: what joining brings to its own patients, as a table."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Protocol

from simulations.reports.ablation import AblationRow, AblationTrial, paired_difference

# The interval of a hospital with fewer scored patients says little.
FEWEST_PATIENTS = 8


class TrainedRow(AblationRow, Protocol):
    """A row that also says what trains."""

    @property
    def study(self) -> str:
        """`local`: each hospital alone."""


def hospitals_markdown(variants: Mapping[str, TrainedRow], reference: str, trials: Sequence[AblationTrial]) -> str:
    """Markdown: for each row in which hospitals train alone, each hospital's own patients beside the reference's model.

    Smallest hospitals first. The difference is together minus alone (below zero: joining pays), paired by patient and
    seed. Empty where no such row and its reference have trials of one seed.
    """
    lines: list[str] = []
    for name, row in variants.items():
        against = row.reference or reference
        alone = [t for t in trials if t.variant == name]
        seeds = {t.seed for t in alone} & {t.seed for t in trials if t.variant == against}
        if row.study != "local" or not seeds:
            continue
        both = [t for t in trials if t.variant in (name, against) and t.seed in seeds]
        sizes = next(t.training_patients for t in both if t.variant == name)
        places = {key.split()[0] for t in both for key in t.patients if t.variant == name}
        for place in sorted(places, key=lambda one: (sizes.get(one, 0), one)):
            own = [replace(t, patients={k: v for k, v in t.patients.items() if k.split()[0] == place}) for t in both]
            found = paired_difference(own, against, name)
            means = [_mean(own, variant) for variant in (name, against)]
            scored = len(next(t for t in own if t.variant == name).patients)
            mark = "" if scored >= FEWEST_PATIENTS else "*"
            lines.append(
                f"| {row.label} | {place} | {sizes.get(place, '-')} | {scored}{mark} | {means[0]:.2f} | {means[1]:.2f} "
                f"| {'-' if found is None else found.cell()} |"
            )
    if not lines:
        return ""
    heads = "| row | hospital | training patients | scored | alone | together | together - alone (95%, paired test) |"
    notes = [f"Dose score in Gy of each hospital's own patients. *: fewer than {FEWEST_PATIENTS} scored patients."]
    return "\n".join(["", heads, "|---|---|---:|---:|---:|---:|---:|", *lines, "", *notes, ""])


def _mean(trials: Sequence[AblationTrial], variant: str) -> float:
    return statistics.fmean(score for t in trials if t.variant == variant for score in t.patients.values())
