"""`client report --scorecard`: what a scorecard says of the reference plans, the shared model and the ways to the card.

Beside the shared model stand the aligned one, the dose steered to the card, and the best of some plan-like doses
(shared_model/tradeoff). ``report.json`` has the numbers; ``report.html`` is one file with tables, doses, DVHs and each
patient's trade of coverage against organs, for the site's own staff: it shows patients by pseudonym and never leaves
the site.
"""

from __future__ import annotations

import base64
import html
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from client.adapters.align import AlignJob, SharedModel
from client.adapters.patients import ScoredPatient, load_patients
from client.adapters.scores import PlanScore, cohort_means, criteria_table, plan_score
from client.prediction.preferred import has_tradeoff, tradeoff_of
from client.reports.front import front_png, trades
from client.reports.scorecard import plans_png
from shared_model.adapter.private import PrivateAdapter, PrivatePolicy, aligned_policy
from shared_model.adapter.shared import PRIVATE
from shared_model.core.files import write_text
from shared_model.scoring.scorecard import Scorecard
from shared_model.tradeoff.patient import tradeoff_patient
from shared_model.tradeoff.steer import Best, Steering, best, steer

_STYLE = (
    "body{font:15px/1.45 sans-serif;margin:2em auto;max-width:1150px;color:#222}"
    "table{border-collapse:collapse;margin:1em 0}"
    "td,th{border-bottom:1px solid #ccc;padding:.25em .7em;text-align:right}"
    "td:first-child,th:first-child{text-align:left}img{max-width:100%}.broken{color:#b00020}small{color:#666}"
)


@dataclass(frozen=True, kw_only=True)
class Plans:
    """One patient's doses (z, y, x) in Gy by name, and their scores. ``drawn``: plan-like doses."""

    patient: ScoredPatient
    doses: Mapping[str, torch.Tensor]
    scores: Mapping[str, PlanScore]
    drawn: Best | None = None


def report(
    job: AlignJob, private: PrivateAdapter | None, pictures: int, drawn: int, done: Callable[[int], None]
) -> dict[str, Any]:
    """Score the site's held-back patients, write both files to ``job.out``; returns what report.json holds.

    ``drawn``: plan-like doses a patient, the prediction among them; 0, and at sites of the body that no trade-off
    network is for: neither these nor a steered dose.
    """
    drawn = drawn if has_tradeoff(job.spec.body_site) else 0
    shared = SharedModel(job.spec, job.vector)
    policy = None if private is None else aligned_policy(job.spec, job.vector, private)
    plans = []
    for case_id in job.site.validation:
        (patient,) = load_patients(job.site, [case_id], job.spec, shared.model, job.card)
        plans.append(_plans(job, patient, shared, policy, drawn))
        done(1)
    names = list(plans[0].scores)
    columns = {name: [one.scores[name] for one in plans] for name in names}
    record = {
        "card": {"name": job.card.name, "version": job.card.version, "sha256": job.card.sha256},
        "patients": len(plans),
        "means": {name: cohort_means(scores) for name, scores in columns.items()},
        "per_criterion": criteria_table(job.card, columns),
        "per_patient": [
            {"case": one.patient.case.case_id, **{n: _brief(one.scores[n]) for n in names}} for one in plans
        ],
    }
    job.out.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_text(job.out / "report.json", json.dumps(record, indent=1) + "\n")
    page = _page(job.card, names, record, plans[:pictures])
    write_text(job.out / "report.html", page)
    return record


def _plans(
    job: AlignJob, patient: ScoredPatient, shared: SharedModel, policy: PrivatePolicy | None, drawn: int
) -> Plans:
    settings = job.settings
    doses = {"reference": patient.reference, "shared": shared.predict(patient, settings)}
    if policy is not None:
        model = policy.use(PRIVATE)
        sampled = patient.sample(model, settings.predict_steps, settings.predict_candidates, seed=settings.seed)
        doses["aligned"] = sampled.mean(0)
    chosen = None
    if drawn:
        tradeoff, shape = tradeoff_of(job.spec.body_site), tuple(patient.case.grid.shape)
        at = tradeoff_patient(patient.case, doses["shared"].numpy(), job.spec.body_site)
        chosen = best(tradeoff, at, patient.card, drawn, settings.seed, shape)
        doses |= {"steered": steer(tradeoff, at, patient.card, Steering(), shape).dose_gy, "best": chosen.dose_gy}
    scores = {name: plan_score(patient, dose) for name, dose in doses.items()}
    return Plans(patient=patient, doses=doses, scores=scores, drawn=chosen)


def _brief(score: PlanScore) -> dict[str, Any]:
    return {"score": score.score, "mae_ref5_gy": score.mae_ref5_gy, "broken": list(score.broken)}


def _page(card: Scorecard, names: Sequence[str], record: Mapping[str, Any], plans: Sequence[Plans]) -> str:
    parts = [
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{html.escape(card.name)}</title>",
        f"<style>{_STYLE}</style>",
        f"<h1>Scorecard {html.escape(card.name)} {html.escape(card.version)}</h1>",
        f"<p>{html.escape(card.institution)}. {record['patients']} held-back patients; means over those that have a "
        "criterion. Research software: no number here is a clinical claim.</p>",
        _means(names, record["means"]),
        _criteria(names, record["per_criterion"]),
        _patients(names, record["per_patient"]),
    ]
    for one in plans:
        case = one.patient.case
        order = [*case.targets, *(n for n in case.structures if n not in case.targets and case.structures[n].any())]
        picture = plans_png(case, {name: dose.numpy() for name, dose in one.doses.items()}, order)
        parts.append(f"<h3>{html.escape(case.case_id)}</h3>")
        parts.append(f'<img alt="doses and DVHs" src="data:image/png;base64,{base64.b64encode(picture).decode()}">')
        parts.append(_trade(one))
    return "\n".join(parts) + "</html>\n"


def _trade(one: Plans) -> str:
    """The patient's trade of coverage against organs; nothing where no plan-like doses were drawn."""
    case = one.patient.case
    if one.drawn is None or not any(case.structures[n].any() for n in case.structures if n not in case.targets):
        return ""
    marked = {name: trades(case, dose[None])[0] for name, dose in one.doses.items()}
    picture = base64.b64encode(front_png(trades(case, one.drawn.doses_gy), one.drawn.scores, marked)).decode()
    note = (
        f"{len(one.drawn.scores)} doses that differ from the prediction as plans do, coloured by the card's score. "
        "The line joins those that no other beats in both coverage and organ dose."
    )
    return f'<p>{note}</p><img alt="coverage against organ dose" src="data:image/png;base64,{picture}">'


def _means(names: Sequence[str], means: Mapping[str, Mapping[str, float]]) -> str:
    rows = [f"<tr><td>{name}<td>{means[name]['score']:.1f}<td>{means[name]['mae_ref5_gy']:.2f}" for name in names]
    return f"<table><tr><th>plan<th>score (0 to 100)<th>MAE, reference ≥ 5 Gy (Gy){''.join(rows)}</table>"


def _criteria(names: Sequence[str], table: Sequence[Mapping[str, Any]]) -> str:
    head = "".join(f"<th>{name}<th>points" for name in names)
    rows = []
    for entry in table:
        cells = []
        for name in names:
            found = entry.get(name)
            if found is None:
                cells.append("<td>-<td>-")
                continue
            mark = (
                f' <span class=broken title="hard constraint broken">{found["broken"]}!</span>'
                if found["broken"]
                else ""
            )
            cells.append(f"<td>{found['value']:.1f} {html.escape(entry['unit'])}{mark}<td>{found['points']:.1f}")
        label = f"{html.escape(entry['criterion'])} <small>{entry['patients']} patients</small>"
        rows.append(f"<tr><td>{label}<td>{entry['weight']:g}{''.join(cells)}")
    note = "<p><small>A number with ! says in how many patients a hard constraint is broken.</small></p>"
    return f"<h2>Criteria</h2><table><tr><th>criterion<th>weight{head}{''.join(rows)}</table>{note}"


def _patients(names: Sequence[str], table: Sequence[Mapping[str, Any]]) -> str:
    head = "".join(f"<th>{name}<th>MAE (Gy)" for name in names)
    rows = [
        f"<tr><td>{html.escape(entry['case'])}"
        + "".join(f"<td>{entry[name]['score']:.1f}<td>{entry[name]['mae_ref5_gy']:.2f}" for name in names)
        for entry in table
    ]
    return f"<h2>Patients</h2><table><tr><th>patient{head}{''.join(rows)}</table>"


def drop_training(job: AlignJob) -> AlignJob:
    """Return the same job with held-back patients only: a report reads no others."""
    return replace(job, site=replace(job.site, train=()))
