"""`simulate scorecards`: hospitals with different scorecards align one shared adapter, each for itself.

For each seed and hospital a private adapter is trained on the hospital's training patients (client/adapters/align.py,
the code of `client align`). Then every hospital's aligned model predicts everyone's held-back patients and is scored
under every scorecard. Beside it stand the shared model's dose steered to each scorecard (shared_model/tradeoff) and
the best by each scorecard of n plan-like doses about it. A stopped command continues when repeated.
"""

from __future__ import annotations

import json
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Self

import torch
from rich.progress import Progress

from client.adapters.align import PRIVATE_FILE, AlignJob, SharedModel, align
from client.adapters.patients import ScoredPatient, load_patients
from client.adapters.scores import plan_score
from client.site.config import SiteConfig
from shared_model.adapter.manifest import load_adapter, vector_hash
from shared_model.adapter.private import PrivateAdapter, PrivatePolicy, aligned_policy
from shared_model.adapter.shared import PRIVATE
from shared_model.bundled import DEFAULT_ADAPTER
from shared_model.core.errors import InputError
from shared_model.core.files import ORDINARY, write_text
from shared_model.scoring.scorecard import Scorecard
from shared_model.scoring.scorecard_read import read_scorecard
from shared_model.tradeoff.patient import tradeoff_patient
from shared_model.tradeoff.saved import Tradeoff
from shared_model.tradeoff.steer import candidates, plan_noise, steer
from simulations.data.datasets import evaluation_sites, hospitals
from simulations.reports.scorecards import REFERENCE, SHARED, ScorecardStudy, study_markdown
from simulations.reports.tables import write_json
from simulations.settings.scorecards import ScorecardsSettings


def run_scorecards(settings: ScorecardsSettings, bars: Progress) -> str:
    """Align the missing models, score everything, write ``scorecards.md`` and ``.json``; returns the tables."""
    torch.set_num_threads(1)
    cards, unseen = ([read_scorecard(path) for path in paths] for paths in (settings.cards, settings.unseen))
    sites = _sites(settings)
    if len(cards) != len(sites):
        raise InputError(f"cards: {len(cards)} for {len(sites)} hospitals; expected one each, in the hospitals' order")
    if settings.aligning:
        _align_all(settings, sites, cards, bars)
    scores = {str(seed): _score_seed(settings, sites, [*cards, *unseen], seed, bars) for seed in settings.seeds}
    costs = {
        f"{site.site}/{seed}": _read(settings.out / f"seed{seed}" / site.site / "cost.json").get("cpu_s", 0.0)
        for seed in settings.seeds
        for site in sites
        if settings.aligning
    }
    study = ScorecardStudy(
        cards={site.site: card.name for site, card in zip(sites, cards, strict=True)},
        unseen=tuple(card.name for card in unseen),
        patients=scores,
        align_cpu_s=costs,
        best_of=settings.best_of,
    )
    write_json(settings.out / "scorecards.json", study.record())
    table = study_markdown(study)
    write_text(settings.out / "scorecards.md", table, mode=ORDINARY)
    return f"{table}\ntables    {settings.out / 'scorecards.md'}"


def _align_all(
    settings: ScorecardsSettings, sites: Sequence[SiteConfig], cards: Sequence[Scorecard], bars: Progress
) -> None:
    bar = bars.add_task("hospitals x seeds", total=len(sites) * len(settings.seeds), note="")
    for seed in settings.seeds:
        for site, card in zip(sites, cards, strict=True):
            job = _job(settings, site, card, seed)
            if not (job.out / "summary.json").is_file():
                bars.update(bar, note=f"{site.site}, {card.name}, seed {seed}")
                _align(job, bars)
            bars.advance(bar)


def _sites(settings: ScorecardsSettings) -> list[SiteConfig]:
    """The hospitals, each with at most the patients asked for; derived files in one cache."""
    found = hospitals(settings.data, settings.partition, settings.out, settings.seeds[0])
    return [replace(site, cache=settings.out / "cache") for site in found]


def _job(settings: ScorecardsSettings, site: SiteConfig, card: Scorecard, seed: int) -> AlignJob:
    path = DEFAULT_ADAPTER if settings.adapter == "default" else Path(settings.adapter)
    spec, vector, _ = load_adapter(path)
    settings.data.check_body_site(spec.body_site)
    given = replace(settings.align, seed=seed)
    out = settings.out / f"seed{seed}" / site.site
    aligned = taught(site, _spared(settings), settings.choose)
    return AlignJob(
        card=card, spec=spec, vector=vector, site=aligned, out=out, settings=given, tradeoff=_tradeoff(settings, seed)
    )


def taught(site: SiteConfig, spared: Collection[str], count: int) -> SiteConfig:
    """The hospital with the patients who choose its alignment as ``validation``: those of its own who are ``spared``.

    Without such, its last ``count`` training patients, who then do not train. InputError where none is left to train.
    """
    choose = tuple(case_id for case_id in site.validation if case_id in spared)
    train = site.train if choose else site.train[:-count]
    if not train:
        raise InputError(f"choose={count}: leaves {site.site} no patient to train on; raise data's or lower it")
    return replace(site, train=train, validation=choose or site.train[-count:])


def _tradeoff(settings: ScorecardsSettings, seed: int) -> Tradeoff:
    return Tradeoff.load(settings.tradeoffs[settings.seeds.index(seed) % len(settings.tradeoffs)])


def _align(job: AlignJob, bars: Progress) -> None:
    """Align one hospital; the CPU seconds of all calls that it took are summed in ``cost.json``."""
    bar = bars.add_task(job.site.site, total=job.settings.epochs, note="")
    cost = job.out / "cost.json"
    spent, started = _read(cost).get("cpu_s", 0.0), time.process_time()

    def progress(what: str, done: int, _total: int, numbers: dict[str, float]) -> None:
        if what == "epochs":
            note = f"score {numbers['score']:.2f}, MAE {numbers['mae_ref5_gy']:.3f} Gy"
            bars.update(bar, completed=done, note=note)
            write_json(cost, {"cpu_s": spent + time.process_time() - started})
            if not bars.console.is_terminal:
                bars.console.print(f"{job.site.site}, seed {job.settings.seed}, epoch {done}: {note}")

    align(job, progress)


def _read(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text())) if path.is_file() else {}


def _score_seed(
    settings: ScorecardsSettings, sites: Sequence[SiteConfig], cards: Sequence[Scorecard], seed: int, bars: Progress
) -> dict[str, Any]:
    """Scores of one seed: patient -> way -> scorecard, error. Reads the scores that were written before."""
    path = settings.out / f"seed{seed}" / "scores.json"
    kept = _read(path)
    patients: dict[str, Any] = kept.get("patients", {})
    job = _job(settings, sites[0], cards[0], seed)
    tradeoff = _tradeoff(settings, seed)
    asked = _asked(settings, cards, job, tradeoff)
    if kept and kept.get("asked") != asked:
        raise InputError(f"{path}: scores of other cards, models or settings; choose another out=")
    spared = _spared(settings)
    left = [(site, case_id) for site in sites for case_id in site.validation if case_id not in spared]
    bar = bars.add_task(f"scoring, seed {seed}", total=len(left), note="")
    shared = SharedModel(job.spec, job.vector)
    policies: dict[str, PrivatePolicy] = {}
    for site in sites if settings.aligning else ():
        private = PrivateAdapter.load(settings.out / f"seed{seed}" / site.site / PRIVATE_FILE)
        policies[site.site] = aligned_policy(job.spec, job.vector, private)
    for site, case_id in left:
        if case_id not in patients:
            ones = [load_patients(site, [case_id], job.spec, shared.model, card)[0] for card in cards]
            found = _patient_scores(settings, ones, cards, shared, policies, tradeoff, seed)
            patients[case_id] = {"site": site.site, **found}
            write_json(path, {"asked": asked, "patients": patients})
        bars.advance(bar)
    return patients


def _asked(
    settings: ScorecardsSettings, cards: Sequence[Scorecard], job: AlignJob, tradeoff: Tradeoff
) -> dict[str, Any]:
    """What scores depend on beside the patient: those of an earlier call are kept only where it is the same."""
    return {
        "adapter": vector_hash(job.vector),
        "tradeoff": tradeoff.sha256,
        "cards": [card.sha256 for card in cards],
        "aligning": settings.aligning,
        "align": asdict(settings.align),
        "steering": asdict(settings.steering),
        "best_of": settings.best_of,
    }


def _spared(settings: ScorecardsSettings) -> set[str]:
    """Validation patients of OpenKBP who are not scored."""
    if settings.data.kind != "openkbp":
        return set()
    whole = replace(settings.data, train_per_site=0, validation_per_site=0, hospitals=())
    (site,) = evaluation_sites(whole, "validation", settings.out, settings.seeds[0])
    first, end = settings.scored
    return {*site.validation[:first], *site.validation[end:]}


def _patient_scores(
    settings: ScorecardsSettings,
    ones: Sequence[ScoredPatient],
    cards: Sequence[Scorecard],
    shared: SharedModel,
    policies: Mapping[str, PrivatePolicy],
    tradeoff: Tradeoff,
    seed: int,
) -> dict[str, Any]:
    """``models``: model -> {mae, scores by card}; ``steered`` and ``best_of``: card -> the same; ``spread``; ``cpu_s``.

    ``spread``: of each organ's mean, its deviation over candidates and what the shared model misses it by, Gy.
    """
    given = replace(settings.align, seed=seed)
    first, found = ones[0], {}
    shape = tuple(first.case.grid.shape)
    found[REFERENCE] = _score_under(ones, cards, first.reference)
    with _CpuSeconds() as one:
        dose = shared.predict(first, given)
    found[SHARED] = _score_under(ones, cards, dose)
    for name, policy in policies.items():
        drawn = first.sample(policy.use(PRIVATE), given.predict_steps, given.predict_candidates, seed=seed)
        found[name] = _score_under(ones, cards, drawn.mean(0))
    patient = tradeoff_patient(first.case, dose.numpy(), tradeoff.body_site)
    steered, took = {}, []
    for scored, card in zip(ones, cards, strict=True):
        with _CpuSeconds() as each:
            moved = steer(tradeoff, patient, scored.card, settings.steering, shape)
        took.append(each.cpu_s)
        steered[card.name] = {**_score_under(ones, cards, moved.dose_gy), "unusual": moved.unusual}
    with _CpuSeconds() as many:
        doses = torch.cat([dose[None], candidates(tradeoff, patient, settings.best_of - 1, plan_noise(seed), shape)])
    best = {}
    for scored, card in zip(ones, cards, strict=True):
        best[card.name] = _score_under(ones, cards, doses[int(scored.card.score(doses.double()).argmax())])
    return {
        "models": found,
        "steered": steered,
        "best_of": best,
        "spread": organ_spread(first, doses[1:], dose),
        "cpu_s": {"one": one.cpu_s, "steer": sum(took) / len(took), "best_of": many.cpu_s},
    }


class _CpuSeconds:
    """CPU seconds of a block."""

    def __enter__(self) -> Self:
        self._started = time.process_time()
        return self

    def __exit__(self, *_: object) -> None:
        self.cpu_s = time.process_time() - self._started


def organ_spread(
    patient: ScoredPatient, doses_kzyx: torch.Tensor, predicted_zyx: torch.Tensor
) -> dict[str, list[float]]:
    """Organ -> [deviation of its mean dose over candidates, predicted minus reference mean], Gy."""
    found = {}
    for name, mask in patient.case.structures.items():
        if name not in patient.case.targets and mask.any():
            where = torch.from_numpy(mask)
            miss = float((predicted_zyx - patient.reference)[where].mean())
            found[name] = [float(doses_kzyx[:, where].mean(1).std()), miss]
    return found


def _score_under(ones: Sequence[ScoredPatient], cards: Sequence[Scorecard], dose: torch.Tensor) -> dict[str, Any]:
    scores = {card.name: plan_score(one, dose).score for one, card in zip(ones, cards, strict=True)}
    return {"scores": scores, "mae_ref5_gy": plan_score(ones[0], dose).mae_ref5_gy}
