"""Tables of `simulate scorecards`: before and after at each hospital, the matrix of cards, and best-of-n beside it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

SHARED = "shared"
REFERENCE = "reference"


@dataclass(frozen=True, kw_only=True)
class ScorecardStudy:
    """``cards``: hospital -> card. ``patients``: seed -> patient -> what ``scorecards._patient_scores`` found."""

    cards: Mapping[str, str]
    patients: Mapping[str, Mapping[str, Any]]
    align_cpu_s: Mapping[str, float]
    best_of: int

    def record(self) -> dict[str, Any]:
        """As JSON, with the summary that the tables show."""
        return {**asdict(self), "summary": [asdict(row) for row in rows(self)]}

    def own(self, seed: str, site: str) -> list[Mapping[str, Any]]:
        """The held-back patients of one hospital."""
        return [p for p in self.patients[seed].values() if p["site"] == site]


@dataclass(frozen=True, kw_only=True)
class ScorecardRow:
    """One hospital and seed under its own card: scores of 100, errors in Gy."""

    site: str
    card: str
    seed: str
    patients: int
    reference: float
    before: float
    after: float
    best: float
    mae_before: float
    mae_after: float
    mae_best: float


def _mean(values: Iterable[float]) -> float:
    return float(np.mean(list(values)))


def rows(study: ScorecardStudy) -> list[ScorecardRow]:
    """One row a hospital and seed."""
    found = []
    for seed in study.patients:
        for site, card in study.cards.items():
            own = study.own(seed, site)
            models = [p["models"] for p in own]
            found.append(
                ScorecardRow(
                    site=site,
                    card=card,
                    seed=seed,
                    patients=len(own),
                    reference=_mean(m[REFERENCE]["scores"][card] for m in models),
                    before=_mean(m[SHARED]["scores"][card] for m in models),
                    after=_mean(m[site]["scores"][card] for m in models),
                    best=_mean(p["best_of"][card]["score"] for p in own),
                    mae_before=_mean(m[SHARED]["mae_ref5_gy"] for m in models),
                    mae_after=_mean(m[site]["mae_ref5_gy"] for m in models),
                    mae_best=_mean(p["best_of"][card]["mae_ref5_gy"] for p in own),
                )
            )
    return found


def _over_seeds(values: Sequence[float], digits: int = 2) -> str:
    spread = f" ± {np.std(values, ddof=1):.{digits}f}" if len(values) > 1 else ""
    return f"{np.mean(values):.{digits}f}{spread}"


def before_and_after(study: ScorecardStudy) -> str:
    """Scores under the hospital's own card and errors, mean and standard deviation over seeds."""
    head = (
        "| hospital | card | patients | reference plans | shared | aligned | gain | best of "
        f"{study.best_of} | MAE shared (Gy) | MAE aligned | change | MAE best of {study.best_of} |"
    )
    lines = [head, "|---|---|" + "---:|" * 10]
    found = rows(study)
    for site in [*study.cards, "all"]:
        some = [row for row in found if site in (row.site, "all")]
        by_seed = [[row for row in some if row.seed == seed] for seed in study.patients]

        def over(get: Any, by_seed: list[list[ScorecardRow]] = by_seed) -> list[float]:
            """Per seed, over patients."""
            return [sum(get(row) * row.patients for row in of) / sum(row.patients for row in of) for of in by_seed]

        before, after = over(lambda r: r.before), over(lambda r: r.after)
        mae, mae_after = over(lambda r: r.mae_before), over(lambda r: r.mae_after)
        gains = [a - b for a, b in zip(after, before, strict=True)]
        changes = [100 * (a / b - 1) for a, b in zip(mae_after, mae, strict=True)]
        cells = [
            site,
            study.cards.get(site, "each its own"),
            str(sum(row.patients for row in by_seed[0])),
            _over_seeds(over(lambda r: r.reference)[:1]),
            _over_seeds(before),
            _over_seeds(after),
            _over_seeds(gains),
            _over_seeds(over(lambda r: r.best)),
            _over_seeds(mae, 3),
            _over_seeds(mae_after, 3),
            _over_seeds(changes) + " %",
            _over_seeds(over(lambda r: r.mae_best), 3),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def matrix(study: ScorecardStudy) -> str:
    """Gain over the shared model on all held-back patients: each aligned model under each card."""
    cards = list(dict.fromkeys(study.cards.values()))
    lines = ["| aligned at | to its card | " + " | ".join(f"under {c}" for c in cards) + " |"]
    lines.append("|---|---|" + "---:|" * len(cards))
    for site, own in study.cards.items():
        cells = []
        for card in cards:
            gains = [
                _mean(p["models"][site]["scores"][card] - p["models"][SHARED]["scores"][card] for p in of.values())
                for of in study.patients.values()
            ]
            text = _over_seeds(gains)
            cells.append(f"**{text}**" if card == own else text)
        lines.append(f"| {site} | {own} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def cost(study: ScorecardStudy) -> str:
    """CPU seconds: of an alignment once, and of each later prediction."""
    of = [p["cpu_s"] for seed in study.patients.values() for p in seed.values()]
    one, many = _mean(c["one"] for c in of), _mean(c["best_of"] for c in of)
    once = list(study.align_cpu_s.values())
    return (
        f"Alignment, once a hospital: {_over_seeds(once, 0)} CPU-s. Prediction of a patient: {one:.2f} CPU-s with the"
        f" shared or the aligned model, {many:.2f} CPU-s for {study.best_of} candidates (base not counted).\n"
    )


def study_markdown(study: ScorecardStudy) -> str:
    """All tables."""
    return "\n".join((before_and_after(study), matrix(study), cost(study)))
