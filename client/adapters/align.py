"""`client align`: make a hospital's private adapter for its scorecard, from a shared adapter and its own patients.

Writes to a folder of the site's: ``summary.json`` (held-back patients before and after), ``align.json`` (what was
done), ``curves.csv`` and ``curves.png`` (reward, score and error by epoch), and ``private.safetensors``. A checkpoint
after each epoch lets a stopped alignment go on; it ends with the same weights.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from client.adapters.patients import ScoredPatient, load_patients
from client.adapters.scard_nft import Alignment, AlignState
from client.adapters.scores import PlanScore, cohort_means, criteria_table, plan_score, reference_scores
from client.adapters.settings import AlignSettings
from client.data.kinds import find_kind
from client.data.site_file import find_site
from client.prediction.preferred import has_tradeoff, tradeoff_of
from client.site.config import DICOM, SiteConfig
from shared_model.adapter.manifest import load_adapter, unpack, vector_hash
from shared_model.adapter.private import OLD, PrivatePolicy
from shared_model.adapter.shared import adapted_model
from shared_model.bundled import DEFAULT_ADAPTER
from shared_model.core.errors import InputError
from shared_model.core.files import whole_file, write_bytes, write_text
from shared_model.core.vector import Vector
from shared_model.network.spec import ModelSpec
from shared_model.patient.case import content_hash
from shared_model.scoring.scorecard import Scorecard
from shared_model.scoring.scorecard_read import read_scorecard
from shared_model.tradeoff.saved import Tradeoff

PRIVATE_FILE = "private.safetensors"
CHECKPOINT = "checkpoint.pt"
# Called with the name of the step, how many are done, of how many, and the newest numbers.
Progress = Callable[[str, int, int, dict[str, float]], None]


@dataclass(frozen=True, kw_only=True)
class AlignJob:
    """One alignment: the scorecard, the shared adapter, the site's patients, and where the results go.

    ``tradeoff``: how plans differ at the model's site of the body, which candidates then follow (candidates.py).
    ``replaces``: if ``out`` holds an alignment with another key, move it to ``out``.previous instead of refusing.
    """

    card: Scorecard
    spec: ModelSpec
    vector: Vector
    site: SiteConfig
    out: Path
    settings: AlignSettings
    tradeoff: Tradeoff | None = None
    replaces: bool = False

    def key(self, train: Sequence[ScoredPatient], held: Sequence[ScoredPatient]) -> str:
        """Hash all that the weights depend on, with the patients' content. ``epochs`` is left out: it may be raised."""
        settings = asdict(replace(self.settings, epochs=0))
        patients = [[(p.case.case_id, content_hash(p.case)) for p in split] for split in (train, held)]
        drawn = None if self.tradeoff is None else self.tradeoff.sha256
        bound = "error of all patients"  # earlier alignments had another bound
        what = [self.card.sha256, vector_hash(self.vector), self.spec.to_json(), settings, patients, drawn, bound]
        return hashlib.sha256(json.dumps(what).encode()).hexdigest()


def data_site(data: Path) -> SiteConfig:
    """Return the site of ``--data``: a site.yaml or a folder that holds one, or a folder of OpenKBP's patients, of
    GDP-HMM's plans or of case files.

    Without a site.yaml about a fifth is held back, by pseudonym. DICOM needs a site.yaml: its case ids depend on the
    site's salt, and so does the choice of held-back patients.
    """
    config = data / "site.yaml" if data.is_dir() else data
    if config.is_file():
        return SiteConfig.load(config)
    kind = find_kind(data)
    if kind == DICOM and any(data.iterdir()):
        raise InputError(f"{data}: holds no .npz, so perhaps DICOM; give the site.yaml that `client init` made of it")
    return find_site("site", "cases" if kind == DICOM else kind, data)


def limit_training(site: SiteConfig, patients: int) -> SiteConfig:
    """Return the site with its first ``patients`` training patients only, and all held-back ones; 0: all patients."""
    return replace(site, train=site.train[:patients]) if patients else site


def align_files(card: Path, adapter: Path, site: SiteConfig, out: Path, settings: AlignSettings) -> AlignJob:
    """Read what an alignment needs; InputError names the file at fault."""
    spec, vector, _ = load_adapter(DEFAULT_ADAPTER if str(adapter) == "default" else adapter)
    cached = site if site.cache is not None else replace(site, cache=out / "cache")
    return AlignJob(
        card=read_scorecard(card), spec=spec, vector=vector, site=cached, out=out, settings=settings,
        tradeoff=tradeoff_of(spec.body_site) if has_tradeoff(spec.body_site) else None,
    )  # fmt: skip


def align(
    job: AlignJob, progress: Progress, patients: tuple[list[ScoredPatient], list[ScoredPatient]] | None = None
) -> dict[str, Any]:
    """Align and write everything to ``job.out``; returns the summary. ``patients``: (train, held back), if loaded."""
    os.makedirs(job.out, mode=0o700, exist_ok=True)
    settings = job.settings
    policy = PrivatePolicy(job.spec, job.vector, settings.shape, settings.seed)
    train, held = patients or cohort(job, policy, progress)
    alignment, key = Alignment(policy, train, held, settings, job.tradeoff), job.key(train, held)
    _resume(job, alignment, key)
    seen = 0

    def epoch_done(entry: dict[str, float]) -> None:
        nonlocal seen
        seen = 0
        _checkpoint(job, alignment, key)
        write_curves(job.out, alignment.state.history)
        progress("epochs", int(entry["epoch"]), settings.epochs, entry)

    def patient_done() -> None:
        nonlocal seen
        seen += 1
        progress("candidates", seen, len(train), {})

    alignment.run(epoch_done, patient_done)
    policy.adapter().save(job.out / PRIVATE_FILE)
    shared = SharedModel(job.spec, job.vector)
    before = [plan_score(p, shared.predict(p, settings)) for p in held]
    after = [plan_score(p, alignment.predict(p)) for p in held]
    return _write(job, alignment, held, before, after)


def cohort(job: AlignJob, policy: PrivatePolicy, progress: Progress) -> tuple[list[ScoredPatient], list[ScoredPatient]]:
    """(training, held-back) patients, read and encoded."""
    total = len(job.site.train) + len(job.site.validation)
    done = 0

    def count_loaded(count: int) -> None:
        nonlocal done
        done += count
        progress("patients", done, total, {})

    train, held = (
        load_patients(job.site, ids, job.spec, policy.model, job.card, count_loaded)
        for ids in (job.site.train, job.site.validation)
    )
    return train, held


class SharedModel:
    """The shared model as it is, without private weights and with its own attention."""

    def __init__(self, spec: ModelSpec, vector: Vector) -> None:
        self.spec = spec
        self.model = adapted_model(spec)
        unpack(self.model, vector)
        self.model.eval()

    def predict(self, patient: ScoredPatient, settings: AlignSettings) -> torch.Tensor:
        """The dose (z, y, x) in Gy that the site would predict with it."""
        return patient.sample(self.model, settings.predict_steps, settings.predict_candidates, seed=settings.seed).mean(
            0
        )


def _write(
    job: AlignJob,
    alignment: Alignment,
    held: Sequence[ScoredPatient],
    before: Sequence[PlanScore],
    after: Sequence[PlanScore],
) -> dict[str, Any]:
    columns = {"reference": reference_scores(held), "before": before, "after": after}
    summary = {
        "before": cohort_means(before),
        "after": cohort_means(after),
        "per_criterion": criteria_table(job.card, columns),
    }
    record = {
        "card": {"name": job.card.name, "version": job.card.version, "sha256": job.card.sha256},
        "shared_sha256": vector_hash(job.vector),
        "settings": asdict(job.settings),
        "tradeoff_sha256": None if job.tradeoff is None else job.tradeoff.sha256,
        "train_patients": len(job.site.train),
        "held_back_patients": len(held),
        "reference": cohort_means(columns["reference"]),
        "best_epoch": alignment.state.best_epoch,
        "best_strength": alignment.state.best_strength,
        "history": alignment.state.history,
    }
    for name, content in (("align", record), ("summary", summary)):
        write_text(job.out / f"{name}.json", json.dumps(content, indent=1) + "\n")
    return summary


def _checkpoint(job: AlignJob, alignment: Alignment, key: str) -> None:
    policy, path = alignment.policy, job.out / CHECKPOINT
    content = {
        "key": key,
        "private": {n: p.detach() for n, p in policy.parameters().items()},
        "old": {n: p.detach() for n, p in policy.parameters(OLD).items()},
        "best": alignment.best,
        "mean": alignment.mean,
        "optimiser": alignment.optimiser.state_dict(),
        "state": asdict(alignment.state),
    }
    with whole_file(path) as file:
        torch.save(content, file)


def _resume(job: AlignJob, alignment: Alignment, key: str) -> None:
    """Go on from the folder's checkpoint, if there is one. Another alignment's is moved aside, or is an InputError."""
    path = job.out / CHECKPOINT
    if not path.is_file():
        return
    try:
        kept = torch.load(path, weights_only=True)
    except Exception as error:  # a damaged pickle can raise anything
        raise InputError(f"{path}: cannot be read ({type(error).__name__}); delete it to start anew") from None
    if kept["key"] != key and job.replaces:
        _move_aside(job.out)
        return
    if kept["key"] != key:
        raise InputError(f"{job.out}: holds an alignment with other settings, card, data or adapter; choose another")
    with torch.no_grad():
        for name, weights in (("private", alignment.policy.parameters()), ("old", alignment.policy.parameters(OLD))):
            for key, parameter in weights.items():
                parameter.copy_(kept[name][key])
    alignment.best, alignment.mean = kept["best"], kept["mean"]
    alignment.optimiser.load_state_dict(kept["optimiser"])
    alignment.state = AlignState(**kept["state"])


def _move_aside(out: Path) -> None:
    """Move ``out`` to ``out``.previous, which it replaces, and make an empty ``out``."""
    previous = out.with_name(f"{out.name}.previous")
    if previous.exists():
        shutil.rmtree(previous)
    os.replace(out, previous)
    out.mkdir(mode=0o700)


def write_curves(out: Path, history: Sequence[dict[str, float]]) -> None:
    """``curves.csv`` and ``curves.png``: reward of the candidates, held-back score and error by epoch."""
    columns = ("epoch", "reward", "loss", "score", "mae_ref5_gy")
    lines = [",".join(columns)]
    lines += [",".join(f"{entry[c]:.5g}" if c in entry else "" for c in columns) for entry in history]
    write_text(out / "curves.csv", "\n".join(lines) + "\n")
    from client.reports.scorecard import curves_png

    write_bytes(out / "curves.png", curves_png(history))
