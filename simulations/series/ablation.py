"""`simulate ablation`: a list of variants (the paper's components, strategies), each through `simulate run`.

The same study trains each variant and seed, with the same steps, in its own folder OUT/VARIANT/seedN. When the command
is repeated, it reads a finished trial and continues a stopped one from its last round. With ``jobs`` the missing trials
are trained side by side, to the same results.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

from rich.progress import Progress, TaskID
from torch import Tensor

from client.app import app as client_app
from client.site.config import SiteConfig
from client.training.train import resident_model
from privacy.wire.messages import EvaluateTask
from server.config.schedule import evaluate_task
from shared_model.adapter.manifest import load_adapter, unpack, vector_bytes, vector_hash
from shared_model.backbone.prior import prior_hash, use_prior_file
from shared_model.base.model import DoseModel
from shared_model.core.errors import FedKT3DError, InputError
from shared_model.core.files import ORDINARY, write_text
from shared_model.core.vector import Vector
from shared_model.network.spec import ModelSpec
from shared_model.patient.case import Case
from shared_model.prediction.predictor import predict_dose
from shared_model.scoring.dosimetry import CaseScore, summarise
from simulations.data.datasets import hospitals
from simulations.engine.faults import add_faults
from simulations.reports.ablation import AblationTrial, table_csv, table_markdown
from simulations.reports.by_hospital import hospitals_markdown
from simulations.reports.results import ADAPTER
from simulations.reports.scoring import SiteScores, overall, score_predictions, score_sites
from simulations.reports.tables import write_json
from simulations.series.side_by_side import TrialJob, side_by_side
from simulations.series.variants import Variant, VariantList
from simulations.settings.commands import RunSettings, run_settings
from simulations.settings.series import AblationSettings, trial_overrides
from simulations.studies.evaluate import withheld
from simulations.studies.study import run_studies

RESULT = "ablation.json"
CHANNELS = "channels"
_Plan = tuple[str, int, RunSettings]  # a row's name, its seed, the run of that trial


def run_ablation(settings: AblationSettings, bars: Progress) -> str:
    """Train the missing trials, write ``out/ablation.md`` and ``.csv`` after each; returns the table."""
    listed = VariantList.read(settings.list)
    listed.check(settings.common)
    names = listed.choose(settings.variants)
    # Check every trial's settings, and that its prior is there, before the first one trains.
    plans = [(name, seed, trial_settings(settings, listed, name, seed)) for name in names for seed in settings.seeds]
    for name, _, run in plans:
        _check_prior(name, run)
    bar = bars.add_task("variants x seeds", total=len(plans), note="")
    found: dict[int, AblationTrial] = {}
    table = ""
    for place, trial in _trials(settings, listed, plans, bars, bar):
        found[place] = trial
        trials = [found[at] for at in sorted(found)]
        table = table_markdown(listed.rows, listed.reference, trials)
        table += hospitals_markdown(listed.rows, listed.reference, trials)
        write_text(settings.out / "ablation.md", table, mode=ORDINARY)
        write_text(settings.out / "ablation.csv", table_csv(trials), mode=ORDINARY)
        for finished in (task for task in bars.task_ids if task != bar):
            bars.update(finished, visible=False)
        bars.advance(bar)
    return f"{table}\ntable     {settings.out / 'ablation.md'}"


def _trials(
    settings: AblationSettings, listed: VariantList, plans: Sequence[_Plan], bars: Progress, bar: TaskID
) -> Iterator[tuple[int, AblationTrial]]:
    """Each plan's place and trial, as trials end. FedKT3DError, after all the others, names those that failed."""
    missing: list[int] = []
    for place, (name, seed, run) in enumerate(plans):
        if settings.jobs > 1 and not _is_scored(run, settings.steps):
            # Written here, once: trials side by side would write the same hospitals.
            hospitals(run.data, run.partition, run.out, run.federation.seed)
            missing.append(place)
            continue
        bars.update(bar, note=f"{name}, seed {seed}")
        yield place, run_trial(name, seed, run, listed.rows[name], settings.steps, bars)
    jobs = [
        TrialJob(work=partial(run_trial, name, seed, run, listed.rows[name], settings.steps), log=run.out / "trial.log")
        for name, seed, run in (plans[place] for place in missing)
    ]
    failed: list[str] = []
    for at, problem in side_by_side(jobs, settings.jobs):
        name, seed, run = plans[missing[at]]
        bars.update(bar, note=f"{name}, seed {seed}{' failed' if problem else ''}")
        if problem:
            failed.append(f"row {name}, seed {seed}: {problem}")
            bars.console.print(f"failed: {failed[-1]}", markup=False)
        else:
            yield missing[at], run_trial(name, seed, run, listed.rows[name], settings.steps, bars)
    if failed:
        raise FedKT3DError(f"{len(failed)} of {len(plans)} trials failed: {'; '.join(sorted(failed))}")


def _is_scored(run: RunSettings, steps: Sequence[int]) -> bool:
    path = run.out / RESULT
    return path.is_file() and [int(count) for count in json.loads(path.read_text())["scores"]] == list(steps)


def trial_settings(settings: AblationSettings, listed: VariantList, name: str, seed: int) -> RunSettings:
    """The settings of ``simulate run`` of one trial; phantom hospitals are made once for all variants of a seed.

    InputError names the row whose overrides, or those of every row, do not compose.
    """
    out = settings.out / name / f"seed{seed}"
    study = settings.study or listed.rows[name].study or listed.study
    own = [f"name=ablation-{name}", f"seed={seed}", f"study=[{study}]", f"out={out}"]
    # privacy.mode=none: the paper's own comparison, on a researcher's machine
    overrides = [
        "privacy.mode=none",
        *trial_overrides(settings.out, settings.common),
        *listed.rows[name].overrides,
        *own,
    ]
    try:
        return run_settings(overrides)
    except InputError as error:
        raise InputError(f"row {name}: {error}") from error


def _check_prior(name: str, run: RunSettings) -> None:
    use_prior_file(run.prior_path)
    try:
        prior_hash(run.spec)
    except InputError as error:
        raise InputError(f"row {name}: {error}") from error


def run_trial(
    name: str, seed: int, run: RunSettings, row: Variant, steps: Sequence[int], bars: Progress
) -> AblationTrial:
    """Train one variant with one seed, score what it trained at every number of steps; read it if it is there."""
    path = run.out / RESULT
    use_prior_file(run.prior_path)
    trained = _training_settings(run, row)
    done: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
    if done and done["trained"] != trained:
        raise InputError(f"{run.out}: holds a trial with other settings; choose another out")
    if done and [int(count) for count in done["scores"]] == list(steps):
        return AblationTrial.read(name, seed, done)
    if run.spec.network == "pyramid":
        _share_channels(run.out)
    sites = hospitals(run.data, run.partition, run.out, run.federation.seed)
    if not done:
        app = add_faults(client_app, row.faults(sites, run.federation.rounds.count)) if row.absent else client_app
        run_studies(run, bars, app, row.change)
    sites = [replace(site, cache=run.out / "cache", device=run.device) for site in row.change(sites)]
    adapters = _adapters(run, row.scored(sites))
    scores: dict[str, dict[str, float]] = {}
    of_sites: SiteScores = {}
    for count in steps:
        of_sites = _scores(run, row, adapters, replace(_asked(run), sampler_steps=count))
        scores[str(count)] = overall(of_sites)
    spec, vector = adapters[0][1:]
    done = {
        "trained": trained,
        "adapter_sha256": vector_hash(vector),
        "vector_bytes": vector_bytes(spec),
        "wall_s": json.loads((run.out / "summary.json").read_text())["wall_s"],
        "scores": scores,
        "patients": {
            f"{site} {case}": summarise([score])["dose_score_gy"]
            for site, of in of_sites.items()
            for case, score in of.items()
        },
        "training_patients": {site.site: len(site.train) for site in sites},
    }
    write_json(path, done)
    return AblationTrial.read(name, seed, done)


def _share_channels(trial: Path) -> None:
    """Let all trials OUT/VARIANT/seedN keep the patients' input channels in OUT/channels: they are the same in each.

    The files are named by their content. What else a site keeps belongs to its trial alone.
    """
    link, shared = trial / "cache" / CHANNELS, trial.parents[1] / CHANNELS
    for folder in (link.parent, shared):
        folder.mkdir(parents=True, exist_ok=True)
    if not link.exists():
        link.symlink_to(Path("../../..") / CHANNELS, target_is_directory=True)


_Adapter = tuple[SiteConfig, ModelSpec, Vector]


def _adapters(run: RunSettings, sites: Sequence[SiteConfig]) -> list[_Adapter]:
    """What each hospital's patients are scored with: the one adapter, or in study local the hospital's own."""
    if run.study != ("local",):
        spec, vector, _ = load_adapter(run.out / ADAPTER)
        return [(site, spec, vector) for site in sites]
    found = [load_adapter(run.out / "studies" / "local" / site.site / ADAPTER) for site in sites]
    return [(site, spec, vector) for site, (spec, vector, _) in zip(sites, found, strict=True)]


def _asked(run: RunSettings) -> EvaluateTask:
    asked = evaluate_task(run.federation, run.federation.rounds.count, "")
    # What a site does for itself belongs to the federation: own heads, fine-tuning after.
    return asked if run.study == ("federated",) else replace(asked, personal="", tune_steps=0)


def _scores(run: RunSettings, row: Variant, adapters: Sequence[_Adapter], task: EvaluateTask) -> SiteScores:
    found: dict[str, Mapping[str, CaseScore]] = {}
    for site, spec, vector in adapters:
        if not row.without:
            found |= score_sites([site], spec, vector, task)
            continue
        model = resident_model(spec, run.device)
        unpack(model, vector)
        model.eval()
        predict = partial(_predict_without, row.without, model, spec, task)
        found |= score_predictions([site], predict)[0]
    return found


def _predict_without(
    without: Sequence[str], model: DoseModel, spec: ModelSpec, task: EvaluateTask, site: SiteConfig, whole: Case
) -> Tensor:
    case, steps = withheld(whole, without), task.sampler_steps
    return predict_dose(model, case, spec, steps=steps, candidates=task.candidates, seed=task.seed)


def _training_settings(run: RunSettings, row: Variant) -> dict[str, Any]:
    """All settings that decide the trained adapter and its patients, but not its folder or the number of processes."""
    data = {key: value for key, value in asdict(run.data).items() if key != "root"}
    federation = json.loads(run.federation.to_json())
    prior = prior_hash(run.spec)
    own = {key: value for key, value in asdict(row).items() if key in ("absent", "clinic", "without") and value}
    settings = {
        **own,
        **({"regions": run.regions} if run.regions else {}),
        "federation": federation,
        "prior": prior,
        "study": run.study,
        "partition": run.partition,
        "data": data,
    }
    # As the file gives it back: tuples are lists.
    return dict(json.loads(json.dumps(settings, default=str)))
