"""`simulate scorecards`: hospitals with different scorecards align one shared adapter, each for itself.

For each seed and hospital a private adapter is trained on the hospital's training patients (client/adapters/align.py,
the code of `client align`). Then every hospital's aligned model predicts everyone's held-back patients and is scored
under every scorecard. The tables compare it with the shared model, and with the best of the shared model's n candidates
by each scorecard. A stopped command continues when repeated, and reads its finished parts.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

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
from simulations.data.datasets import hospitals
from simulations.reports.scorecards import SHARED, ScorecardStudy, study_markdown
from simulations.reports.tables import write_json
from simulations.settings.scorecards import ScorecardsSettings


def run_scorecards(settings: ScorecardsSettings, bars: Progress) -> str:
    """Align the missing models, score everything, write ``scorecards.md`` and ``.json``; returns the tables."""
    torch.set_num_threads(1)
    cards = [read_scorecard(path) for path in settings.cards]
    sites = _sites(settings)
    if len(cards) != len(sites):
        raise InputError(f"cards: {len(cards)} for {len(sites)} hospitals; expected one each, in the hospitals' order")
    bar = bars.add_task("hospitals x seeds", total=len(sites) * len(settings.seeds), note="")
    for seed in settings.seeds:
        for site, card in zip(sites, cards, strict=True):
            job = _job(settings, site, card, seed)
            if not (job.out / "summary.json").is_file():
                bars.update(bar, note=f"{site.site}, {card.name}, seed {seed}")
                _align(job, bars)
            bars.advance(bar)
    scores = {str(seed): _score_seed(settings, sites, cards, seed, bars) for seed in settings.seeds}
    costs = {
        f"{site.site}/{seed}": _read(settings.out / f"seed{seed}" / site.site / "cost.json").get("cpu_s", 0.0)
        for seed in settings.seeds
        for site in sites
    }
    cards_of = {site.site: card.name for site, card in zip(sites, cards, strict=True)}
    study = ScorecardStudy(cards=cards_of, patients=scores, align_cpu_s=costs, best_of=settings.best_of)
    write_json(settings.out / "scorecards.json", study.record())
    table = study_markdown(study)
    write_text(settings.out / "scorecards.md", table, mode=ORDINARY)
    return f"{table}\ntables    {settings.out / 'scorecards.md'}"


def _sites(settings: ScorecardsSettings) -> list[SiteConfig]:
    """The hospitals, each with at most the patients asked for; derived files in one cache."""
    found = hospitals(settings.data, settings.partition, settings.out, settings.seeds[0])
    return [replace(site, cache=settings.out / "cache") for site in found]


def _job(settings: ScorecardsSettings, site: SiteConfig, card: Scorecard, seed: int) -> AlignJob:
    path = DEFAULT_ADAPTER if settings.adapter == "default" else Path(settings.adapter)
    spec, vector, _ = load_adapter(path)
    given = replace(settings.align, seed=seed)
    out = settings.out / f"seed{seed}" / site.site
    train, choose = site.train[: -settings.choose], site.train[-settings.choose :]
    if not train:
        raise InputError(
            f"choose={settings.choose}: leaves {site.site} no patient to train on; raise data's or lower it"
        )
    aligned = replace(site, train=train, validation=choose)
    return AlignJob(card=card, spec=spec, vector=vector, site=aligned, out=out, settings=given)


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
    """Scores of one seed: patient -> model -> scorecard, error. Reads the scores that were written before."""
    path = settings.out / f"seed{seed}" / "scores.json"
    kept = _read(path)
    patients: dict[str, Any] = kept.get("patients", {})
    total = sum(len(site.validation) for site in sites)
    bar = bars.add_task(f"scoring, seed {seed}", total=total, completed=len(patients), note="")
    job = _job(settings, sites[0], cards[0], seed)
    shared = SharedModel(job.spec, job.vector)
    policies: dict[str, PrivatePolicy] = {}
    for site in sites:
        private = PrivateAdapter.load(settings.out / f"seed{seed}" / site.site / PRIVATE_FILE)
        policies[site.site] = aligned_policy(job.spec, job.vector, private)
    for site in sites:
        for case_id in (c for c in site.validation if c not in patients):
            ones = [load_patients(site, [case_id], job.spec, shared.model, card)[0] for card in cards]
            patients[case_id] = {"site": site.site, **_patient_scores(settings, ones, cards, shared, policies, seed)}
            write_json(path, {"adapter_sha256": vector_hash(job.vector), "patients": patients})
            bars.advance(bar)
    return patients


def _patient_scores(
    settings: ScorecardsSettings,
    ones: Sequence[ScoredPatient],
    cards: Sequence[Scorecard],
    shared: SharedModel,
    policies: Mapping[str, PrivatePolicy],
    seed: int,
) -> dict[str, Any]:
    """``models``: model -> {mae, scores by card}; ``best_of``: card -> {score, mae}; CPU seconds of each way."""
    given = replace(settings.align, seed=seed)
    first, found = ones[0], {}
    found["reference"] = _score_under(ones, cards, first.reference)
    started = time.process_time()
    found[SHARED] = _score_under(ones, cards, shared.predict(first, given))
    single_s = time.process_time() - started
    for name, policy in policies.items():
        dose = first.sample(policy.use(PRIVATE), given.predict_steps, given.predict_candidates, seed=seed).mean(0)
        found[name] = _score_under(ones, cards, dose)
    started = time.process_time()
    doses = first.sample(shared.model, given.candidate_steps, settings.best_of, seed=seed)
    many_s = time.process_time() - started
    best = {}
    for one, card in zip(ones, cards, strict=True):
        chosen = doses[int(one.card.score(doses).argmax())]
        scored = plan_score(one, chosen)
        best[card.name] = {"score": scored.score, "mae_ref5_gy": scored.mae_ref5_gy}
    return {"models": found, "best_of": best, "cpu_s": {"one": single_s, "best_of": many_s}}


def _score_under(ones: Sequence[ScoredPatient], cards: Sequence[Scorecard], dose: torch.Tensor) -> dict[str, Any]:
    scores = {card.name: plan_score(one, dose).score for one, card in zip(ones, cards, strict=True)}
    return {"scores": scores, "mae_ref5_gy": plan_score(ones[0], dose).mae_ref5_gy}
