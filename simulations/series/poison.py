"""`simulate poison`: how a lying hospital harms a federation under secure aggregation, and what the check prevents.

Each trial is a federated study of `simulate run` in OUT/factorF/CHECK/seedN. One site releases F times its part, masked
as usual. CHECK names the patients on whom rounds are judged (server/rounds/public_gate.py): none, the bundled phantoms,
or the patients of the file that ``public`` names. When the command is repeated, it reads finished trials.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rich.progress import Progress

from client.app import client_app
from client.training.installed import InstalledTraining
from privacy.dp.terms import NOISE_SHARED
from server.rounds.result import QuorumError
from server.runs.index import Tail
from shared_model.core.errors import InputError
from shared_model.core.files import ORDINARY, write_text
from simulations.data.datasets import hospitals
from simulations.engine.faults import PoisonedTraining
from simulations.reports.ablation import spread
from simulations.reports.results import REPORT
from simulations.reports.tables import write_json
from simulations.settings.commands import RunSettings, run_settings
from simulations.settings.series import PoisonSettings, trial_overrides
from simulations.studies.study import claim_folder, run_studies

RESULT = "poison.json"
# Check -> the overrides of `simulate run` that turn it on.
_CHECKS = {"none": ("rounds.public_step=0", "rounds.public_worst=0"), "phantoms": (), "patients": ()}


@dataclass(frozen=True, kw_only=True)
class PoisonTrial:
    """One run. ``start_gy``, ``public_gy``: error on the public patients before and after; scores: validation patients.

    The errors are None if no round was judged, the scores if the run made no adapter.
    """

    factor: float
    check: str
    seed: int
    rounds: int
    taken_back: int
    start_gy: float | None
    public_gy: float | None
    score_gy: float | None
    dvh_gy: float | None
    ended: str


def run_poison(settings: PoisonSettings, bars: Progress) -> str:
    """Run the missing trials; writes poison.md after each; returns the table."""
    checks = [check for check in _CHECKS if check != "patients" or settings.public]
    wanted = [(f, check, s) for f in settings.factors for check in checks for s in settings.seeds]
    plans = [(*trial, trial_settings(settings, *trial)) for trial in wanted]
    bar = bars.add_task("factors x check x seeds", total=len(plans), note="")
    trials: list[PoisonTrial] = []
    table = ""
    for factor, check, seed, run in plans:
        bars.update(bar, note=f"factor {factor:g}, check {check}, seed {seed}")
        trials.append(run_trial(settings.liar, factor, check, seed, run, bars))
        table = table_markdown(trials)
        write_text(settings.out / "poison.md", table, mode=ORDINARY)
        for finished in (task for task in bars.task_ids if task != bar):
            bars.update(finished, visible=False)
        bars.advance(bar)
    return f"{table}\ntable     {settings.out / 'poison.md'}"


def trial_settings(settings: PoisonSettings, factor: float, check: str, seed: int) -> RunSettings:
    """The settings of ``simulate run`` of one trial."""
    out = settings.out / f"factor{factor:g}" / check / f"seed{seed}"
    if any(o.startswith("rounds.public_") for o in settings.common):
        raise InputError(
            "simulate poison: rounds.public_*: each trial has its own; name public patients with public=FILE"
        )
    of = [f"rounds.public_cases={settings.public}"] if check == "patients" else []
    own = [f"name=poison-{settings.liar}", f"seed={seed}", "study=[federated]", f"out={out}", *_CHECKS[check], *of]
    run = run_settings([*trial_overrides(settings.out, settings.common), *own])
    if run.federation.privacy.mode not in NOISE_SHARED:
        mode, modes = run.federation.privacy.mode, " or ".join(NOISE_SHARED)
        raise InputError(f"simulate poison: privacy.mode={mode}: expected {modes}")
    return run


def run_trial(liar: int, factor: float, check: str, seed: int, run: RunSettings, bars: Progress) -> PoisonTrial:
    """Run one federation with one lying site, or read the result if the run is finished."""
    path = run.out / RESULT
    if path.is_file():
        claim_folder(run)
        return PoisonTrial(**json.loads(path.read_text()))
    sites = hospitals(run.data, run.partition, run.out, run.federation.seed)
    if liar >= len(sites):
        raise InputError(f"liar={liar}: expected 0 to {len(sites) - 1}, the place of one of {len(sites)} sites")
    name = sorted(site.site for site in sites)[liar]
    app = client_app(PoisonedTraining(InstalledTraining(), site=name, factor=factor))
    found: dict[str, Any] = {"factor": factor, "check": check, "seed": seed}
    try:
        run_studies(run, bars, app)
    except QuorumError as error:
        # The coordinator refuses a sum that is too long, so the run ends without a vector.
        kinds = [event["kind"] for event in Tail(run.out / "studies/federated/events.jsonl", from_start=True).new()]
        found |= {"rounds": kinds.count("round_done"), "taken_back": kinds.count("rolled_back")}
        found |= {"start_gy": None, "public_gy": None, "score_gy": None, "dvh_gy": None}
        found["ended"] = "the sum is refused by its norm" if "norm" in str(error) else str(error)[:100]
    else:
        report = json.loads((run.out / "studies" / "federated" / REPORT).read_text())
        scores = json.loads((run.out / "summary.json").read_text())["studies"]["federated"]
        judged = report["public"]
        found |= {
            "rounds": report["rounds"],
            "taken_back": len(judged.get("taken_back", [])),
            "start_gy": judged.get("start_gy"),
            "public_gy": judged.get("end_gy"),
            "score_gy": scores["dose_score_gy"],
            "dvh_gy": scores["dvh_score_gy"],
            "ended": "early" if judged.get("stopped") else "",
        }
    write_json(path, found)
    return PoisonTrial(**found)


def table_markdown(trials: Sequence[PoisonTrial]) -> str:
    """One row a factor, with the check and without: mean ± sd over seeds."""
    lines = [
        "| one site releases its part times | judged on | seeds | rounds | taken back | error there: start | end (Gy) "
        "| dose score (Gy) | DVH score (Gy) | |",
        "|---:|---|---:|---:|---:|---:|---:|---:|---:|---|",
    ]
    groups: dict[tuple[float, str], list[PoisonTrial]] = {}
    for trial in trials:
        groups.setdefault((trial.factor, trial.check), []).append(trial)
    for (factor, check), own in groups.items():
        cells = [_cell([getattr(t, key) for t in own]) for key in ("start_gy", "public_gy", "score_gy", "dvh_gy")]
        counts = [f"{statistics.fmean(getattr(t, key) for t in own):g}" for key in ("rounds", "taken_back")]
        ended = "; ".join(sorted({t.ended for t in own if t.ended}))
        lines.append(f"| {factor:g} | {check} | {len(own)} | {' | '.join(counts)} | {' | '.join(cells)} | {ended} |")
    return "\n".join(lines) + "\n"


def _cell(values: Sequence[float | None]) -> str:
    there = [value for value in values if value is not None]
    return spread(there) if there else "-"
