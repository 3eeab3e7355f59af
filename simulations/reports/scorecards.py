"""Tables of `simulate scorecards`: each way to a hospital's preference, the matrix of cards, candidates and cost."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

SHARED = "shared"
REFERENCE = "reference"
ALIGNED, STEERED, BEST = "aligned", "steered", "best"
# What one patient's dose is: {"scores": {card: score}, "mae_ref5_gy": Gy}.
Found = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class ScorecardStudy:
    """``cards``: hospital -> card. ``patients``: seed -> patient -> what ``scorecards._patient_scores`` found."""

    cards: Mapping[str, str]
    unseen: tuple[str, ...] = ()
    patients: Mapping[str, Mapping[str, Any]]
    align_cpu_s: Mapping[str, float]
    best_of: int

    @property
    def ways(self) -> tuple[str, ...]:
        """How doses come to a card; aligned models only where there are some."""
        return (SHARED, ALIGNED, STEERED, BEST) if self.align_cpu_s else (SHARED, STEERED, BEST)

    def record(self) -> dict[str, Any]:
        """As JSON, with the summary that the tables show."""
        return {**asdict(self), "summary": [asdict(row) for row in rows(self)]}

    def own(self, seed: str, site: str) -> list[Mapping[str, Any]]:
        """The held-back patients of one hospital."""
        return [p for p in self.patients[seed].values() if p["site"] == site]

    def found(self, patient: Mapping[str, Any], way: str, site: str, card: str) -> Found:
        """A patient's dose by one way to a card, at a hospital."""
        by_card = {STEERED: "steered", BEST: "best_of"}
        if way in by_card:
            return dict(patient[by_card[way]][card])
        return dict(patient["models"][site if way == ALIGNED else way])


@dataclass(frozen=True, kw_only=True)
class ScorecardRow:
    """One hospital and seed under its own card, by way: scores of 100 and errors in Gy."""

    site: str
    card: str
    seed: str
    patients: int
    reference: float
    score: Mapping[str, float]
    mae: Mapping[str, float]


def _mean(values: Iterable[float]) -> float:
    return float(np.mean(list(values)))


def rows(study: ScorecardStudy) -> list[ScorecardRow]:
    """One row a hospital and seed."""
    found = []
    for seed in study.patients:
        for site, card in study.cards.items():
            own = study.own(seed, site)
            if not own:
                continue
            doses = {way: [study.found(p, way, site, card) for p in own] for way in study.ways}
            found.append(
                ScorecardRow(
                    site=site,
                    card=card,
                    seed=seed,
                    patients=len(own),
                    reference=_mean(p["models"][REFERENCE]["scores"][card] for p in own),
                    score={way: _mean(d["scores"][card] for d in of) for way, of in doses.items()},
                    mae={way: _mean(d["mae_ref5_gy"] for d in of) for way, of in doses.items()},
                )
            )
    return found


def _over_seeds(values: Sequence[float], digits: int = 2) -> str:
    spread = f" ± {np.std(values, ddof=1):.{digits}f}" if len(values) > 1 else ""
    return f"{np.mean(values):.{digits}f}{spread}"


def _titles(study: ScorecardStudy) -> dict[str, str]:
    return {SHARED: SHARED, ALIGNED: ALIGNED, STEERED: STEERED, BEST: f"best of {study.best_of}"}


def own_cards(study: ScorecardStudy) -> str:
    """Scores under the hospital's own card, gains and errors, mean and standard deviation over seeds."""
    titles = _titles(study)
    later = [way for way in study.ways if way != SHARED]
    head = ["hospital", "card", "patients", "reference plans", "shared"]
    head += [f"{titles[way]}: gain" for way in later] + ["MAE shared (Gy)"]
    head += [f"{titles[way]}: change of MAE" for way in later]
    lines = [f"| {' | '.join(head)} |", "|---|---|" + "---:|" * (len(head) - 2)]
    found = rows(study)
    for site in [*study.cards, "all"]:
        some = [row for row in found if site in (row.site, "all")]
        if not some:
            continue
        by_seed = [[row for row in some if row.seed == seed] for seed in study.patients]

        def over(get: Callable[[ScorecardRow], float], by_seed: list[list[ScorecardRow]] = by_seed) -> list[float]:
            """Per seed, over patients."""
            return [sum(get(row) * row.patients for row in of) / sum(row.patients for row in of) for of in by_seed]

        shared, mae = over(lambda r: r.score[SHARED]), over(lambda r: r.mae[SHARED])
        cells = [site, study.cards.get(site, "each its own"), str(sum(row.patients for row in by_seed[0]))]
        cells += [_over_seeds(over(lambda r: r.reference)[:1]), _over_seeds(shared)]
        for way in later:
            after = over(lambda r, way=way: r.score[way])  # type: ignore[misc]
            cells.append(_over_seeds([a - b for a, b in zip(after, shared, strict=True)]))
        cells.append(_over_seeds(mae, 3))
        for way in later:
            after = over(lambda r, way=way: r.mae[way])  # type: ignore[misc]
            cells.append(_over_seeds([100 * (a / b - 1) for a, b in zip(after, mae, strict=True)]) + " %")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def matrix(study: ScorecardStudy, way: str) -> str:
    """Gain over the shared model on all patients: doses made for each card, under each card."""
    cards = list(dict.fromkeys([*study.cards.values(), *study.unseen]))
    sources = list(study.cards.items()) if way == ALIGNED else [(way, card) for card in cards]
    lines = [f"| {way} to | " + " | ".join(f"under {c}" for c in cards) + " |", "|---|" + "---:|" * len(cards)]
    for site, own in sources:
        cells = []
        for card in cards:
            gains = [
                _mean(
                    study.found(p, way, site, own)["scores"][card] - p["models"][SHARED]["scores"][card]
                    for p in of.values()
                )
                for of in study.patients.values()
            ]
            text = _over_seeds(gains)
            cells.append(f"**{text}**" if card == own else text)
        lines.append(f"| {own} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def spread(study: ScorecardStudy) -> str:
    """Each organ's mean dose: root mean squares over patients of its deviation over candidates and of the error."""
    names = sorted({name for of in study.patients.values() for p in of.values() for name in p["spread"]})
    lines = [
        "| organ | deviation over candidates (Gy) | error of the shared model (Gy) | ratio |",
        "|---|---:|---:|---:|",
    ]
    for name in [*names, "all"]:
        deviations, errors = [], []
        for of in study.patients.values():
            pairs = [pair for p in of.values() for organ, pair in p["spread"].items() if name in (organ, "all")]
            found = np.sqrt(np.mean(np.square(np.array(pairs)), axis=0))
            deviations.append(float(found[0]))
            errors.append(float(found[1]))
        ratio = [a / b for a, b in zip(deviations, errors, strict=True)]
        lines.append(f"| {name} | {_over_seeds(deviations)} | {_over_seeds(errors[:1])} | {_over_seeds(ratio)} |")
    return "\n".join(lines) + "\n"


def cost(study: ScorecardStudy) -> str:
    """CPU seconds: of an alignment once, and of each later prediction."""
    of = [p["cpu_s"] for seed in study.patients.values() for p in seed.values()]
    one, steer, many = (_mean(c[key] for c in of) for key in ("one", "steer", "best_of"))
    once = list(study.align_cpu_s.values())
    aligned = f"Alignment, once a hospital: {_over_seeds(once, 0)} CPU-s. " if once else ""
    return (
        f"{aligned}A patient: {one:.2f} CPU-s in one pass of the model, {steer:.2f} CPU-s more to steer, "
        f"{many:.2f} CPU-s more for {study.best_of} candidates.\n"
    )


def study_markdown(study: ScorecardStudy) -> str:
    """All tables."""
    matrices = [matrix(study, way) for way in study.ways if way in (ALIGNED, STEERED)]
    return "\n".join((own_cards(study), *matrices, spread(study), cost(study)))
