"""Results of `simulate run`: summary.json, tables, curves, pictures, the adapter and the resolved config."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from rich.progress import Progress

from client.data.load import load_case
from client.reports.patient import site_picture
from client.site.config import SiteConfig
from server.config.privacy import privacy_line
from server.config.schedule import evaluate_task
from server.rounds.public_gate import stop_lines
from shared_model.adapter.card import card_bytes, card_path
from shared_model.adapter.envelope import Envelope
from shared_model.adapter.hub import write_hub_files
from shared_model.adapter.manifest import load_adapter, unpack, vector_bytes, vector_hash
from shared_model.adapter.shared import adapted_model
from shared_model.core.files import ORDINARY, write_bytes, write_text
from shared_model.core.vector import Vector
from shared_model.network.spec import ModelSpec
from shared_model.prediction.predictor import predict_dose
from simulations.reports.curves import curves_picture
from simulations.reports.machine import cpu_name
from simulations.reports.scoring import COLUMNS, SiteScores, overall, patients_csv, score_sites, study_summary
from simulations.reports.tables import metrics_csv, metrics_table, write_summary
from simulations.settings.commands import RunSettings

ADAPTER = "adapter.safetensors"
REPORT = "federation.json"


@dataclass(frozen=True, kw_only=True)
class TrainedModel:
    """Result of a federation: its spec (with the base that it fitted) and the final shared vector (d,)."""

    spec: ModelSpec
    vector: Vector


# (study, name of its federation) -> its result.
Trained = Mapping[tuple[str, str], TrainedModel]


def score_studies(
    settings: RunSettings, sites: list[SiteConfig], trained: Trained, bars: Progress
) -> dict[str, dict[str, Any]]:
    """Score every final model on the same validation patients.

    ``local`` scores each hospital's own model on its own patients (the kindest reading of training alone);
    ``local_everywhere`` scores it on the patients of all hospitals, and is the mean over hospitals.
    """
    asked = evaluate_task(settings.federation, settings.federation.rounds.count, "")
    # What a site does for itself belongs to the federation: own heads, fine-tuning after.
    plain = replace(asked, personal="", tune_steps=0)
    total = sum(len(site.validation) for site in sites)
    bar = bars.add_task("scoring patients", total=total * len(trained), note="")
    found: dict[str, dict[str, Any]] = {}
    for (study, name), model in trained.items():
        task = asked if study == "federated" else plain
        scores = score_sites(sites, model.spec, model.vector, task, lambda n: bars.advance(bar, n))
        if study == "local":
            found.setdefault("local", {}).update({name: scores[name]} if name in scores else {})
            found.setdefault("local_everywhere", {})[name] = overall(scores)
        else:
            found[study] = scores
    return found


def write_results(
    settings: RunSettings,
    sites: list[SiteConfig],
    trained: Trained,
    scores: dict[str, dict[str, Any]],
    started: tuple[float, float],
) -> str:
    """Write all results below ``settings.out``; returns the table and the paths for the screen.

    ``started``: ``time.monotonic`` and ``time.process_time`` when the run, or what was left of it, began.
    """
    out = settings.out
    everywhere: dict[str, Mapping[str, float]] = scores.pop("local_everywhere", {})
    ordered: dict[str, SiteScores] = {study: scores[study] for study in settings.study}
    summary = _summary(settings, sites, trained, ordered, everywhere, started)
    write_summary(out / "summary.json", summary)
    promised = "\n".join([*stop_lines(summary), privacy_line(summary["privacy"])])
    write_text(out / "metrics.md", f"{metrics_table(summary)}\n{promised}\n", mode=ORDINARY)
    write_text(out / "metrics.csv", metrics_csv(summary), mode=ORDINARY)
    write_text(out / "patients.csv", patients_csv(ordered), mode=ORDINARY)
    _curves(out)
    lead = settings.study[0]
    if lead != "local":
        trained_there = out / "studies" / lead / ADAPTER
        shutil.copyfile(trained_there, out / ADAPTER)
        card = json.loads(card_path(trained_there).read_text(encoding="utf-8"))
        card["metrics"] = {column: round(summary["studies"][lead][column], 4) for column in COLUMNS}
        card["trained_on"] = training_ranges(sites).record()
        write_bytes(card_path(out / ADAPTER), card_bytes(card), mode=ORDINARY)
        write_hub_files(out / ADAPTER, *load_adapter(out / ADAPTER))
    pictures = _pictures(settings, sites, trained, lead)
    lines = [metrics_table(summary), promised, f"summary   {out / 'summary.json'}", f"curves    {out / 'curves.png'}"]
    lines += [f"adapter   {out / ADAPTER}"] if lead != "local" else []
    lines += [f"picture   {path}" for path in pictures]
    return "\n".join([*lines, _wire_line(settings, summary["wire_bytes_per_round"])])


def training_ranges(sites: Sequence[SiteConfig]) -> Envelope:
    """Ranges of the training patients of all sites, for the model card (shared_model/adapter/envelope.py)."""
    return Envelope.measure(load_case(site, case_id) for site in sites for case_id in site.train)


def _wire_line(settings: RunSettings, measured: int) -> str:
    """A line on traffic: the adapter's exact bytes, and the bytes that the federated study's exchange measured."""
    size = vector_bytes(settings.spec)
    line = (
        f"on wire   adapter={settings.spec.adapter}: {size // 4:,} numbers, {size:,} bytes each way per site and round"
    )
    return line + (f"; {measured:,} bytes in a round of the federation" if measured else "")


def _summary(
    settings: RunSettings,
    sites: list[SiteConfig],
    trained: Trained,
    scores: Mapping[str, SiteScores],
    everywhere: Mapping[str, Mapping[str, float]],
    started: tuple[float, float],
) -> dict[str, Any]:
    federation = settings.federation
    studies: dict[str, Any] = {}
    for study, found in scores.items():
        studies[study] = study_summary(found)
        hashes = {name: vector_hash(v.vector) for (of, name), v in trained.items() if of == study}
        studies[study]["adapter_sha256"] = hashes if study == "local" else next(iter(hashes.values()))
    if everywhere:
        mean = {c: sum(of[c] for of in everywhere.values()) / len(everywhere) for c in COLUMNS}
        studies["local"]["everywhere"] = {**mean, "per_model": dict(everywhere)}
    reports = {study: _report(settings.out / "studies" / study) for study in scores if study != "local"}
    lead = reports.get(settings.study[0], {})
    # A run may end before its last round.
    rounds = lead.get("rounds", federation.rounds.count)
    return {
        "seed": federation.seed,
        "wall_s": round(time.monotonic() - started[0], 1),
        "cpu_s": round(time.process_time() - started[1], 1),
        "sites": [site.site for site in sites],
        "rounds": rounds,
        "gradient_steps": rounds * federation.train.local_steps,
        "wire_bytes_per_round": reports.get("federated", {}).get("wire_bytes_per_round", 0),
        "privacy": lead.get("privacy", {"mode": federation.privacy.mode}),
        "public": lead.get("public", {}),
        "drops": reports.get("federated", {}).get("drops", []),
        "machine": {
            "cpu": cpu_name(),
            "cores": os.cpu_count(),
            "torch": torch.__version__,
        },
        "studies": studies,
    }


def _report(folder: Path) -> dict[str, Any]:
    report: dict[str, Any] = json.loads((folder / REPORT).read_text())
    return report


def _curves(out: Path) -> None:
    """Training loss by round of every federation of the run, as a picture, and as CSV with the scores on the way."""
    curves: dict[str, list[tuple[float, float]]] = {}
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["study", "round", "loss", "wall_s", *COLUMNS])
    for report in sorted((out / "studies").rglob(REPORT)):
        label = " ".join(report.relative_to(out / "studies").parts[:-1])
        history = json.loads(report.read_text())["history"]
        # A private run reports no losses.
        losses = [(float(entry["round"]), float(entry["metrics"].get("loss", "nan"))) for entry in history]
        curves[label] = losses
        for entry in history:
            scores = (entry.get("evaluation") or {}).get("metrics", {})
            found = [f"{scores[c]:.4f}" if c in scores else "" for c in COLUMNS]
            loss = f"{entry['metrics']['loss']:.6f}" if "loss" in entry["metrics"] else ""
            writer.writerow([label, entry["round"], loss, f"{entry['wall_s']:.2f}", *found])
    curves_picture(out / "curves.png", curves, "round", "velocity loss")
    write_text(out / "curves.csv", text.getvalue(), mode=ORDINARY)


def _pictures(settings: RunSettings, sites: list[SiteConfig], trained: Trained, study: str) -> list[Path]:
    """One picture a site: its first validation patient, predicted by ``study``'s model (local: by the site's own)."""
    model = adapted_model(settings.spec)
    model.eval()
    paths = []
    for site in sites:
        if not site.validation:
            continue
        of_site = (
            trained[("local", site.site)]
            if study == "local"
            else next(v for (of, _), v in trained.items() if of == study)
        )
        unpack(model, of_site.vector)
        case = load_case(site, site.validation[0])
        evaluate = settings.federation.evaluate
        dose = predict_dose(
            model, case, of_site.spec, steps=evaluate.sampler_steps, candidates=evaluate.candidates
        ).numpy()
        path = settings.out / "pictures" / f"{site.site}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        site_picture(path, case, dose, f"Site {site.site}, case {case.case_id}: {study} model")
        paths.append(path)
    return paths
