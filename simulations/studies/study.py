"""`simulate run`: the same federation code run as federated, local-only and centralised training, scored alike.

Every model takes the same number of gradient steps (rounds x local_steps), and every study sees the same number of
patients: a site alone and a site in the federation use ``batch_size``, the centralised model that times the number of
sites. All three go through server.app and client.app, as a deployment does.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
import yaml
from flwr.app import UserConfig
from flwr.clientapp import ClientApp
from rich.progress import Progress, TaskID

from client.app import LEDGER_KEY, NODE_CONFIG_KEY
from client.app import app as client_app
from client.site.config import SiteConfig
from privacy.dp.terms import SUMMED
from server.app import federate, run_config
from server.config.run import RunConfig
from server.record.events import LOUD, Event
from server.sites.attendance import Members
from shared_model.adapter.manifest import load_adapter
from shared_model.backbone.prior import use_prior_file
from shared_model.core.errors import InputError
from shared_model.core.files import ORDINARY, write_text
from simulations.data.datasets import hospitals
from simulations.data.partition import one_site
from simulations.engine.consortium import enrol
from simulations.engine.run import ProcessGrid, run_local, run_ray
from simulations.engine.sites_log import sites_log
from simulations.engine.tree import Tree
from simulations.reports.results import ADAPTER, TrainedModel, score_studies, write_results
from simulations.settings.commands import RunSettings


@dataclass(frozen=True, kw_only=True)
class FederationJob:
    """One federation to run: a study's whole, or one site of the local-only study."""

    study: str
    name: str
    sites: tuple[SiteConfig, ...]
    federation: RunConfig
    out: Path


def plan_jobs(settings: RunSettings, sites: list[SiteConfig]) -> list[FederationJob]:
    """The federations that ``settings.study`` asks for; longest first, so that workers end together."""
    base = settings.federation
    least = len(sites) if settings.everyone else min(base.rounds.min_sites, len(sites))
    # To the coordinator a region is a site.
    quorum = replace(base.rounds, min_sites=min(least, settings.regions) if settings.regions else least)
    # One site has nobody to drift from, and no heads apart from the shared ones.
    train = replace(base.train, control="none", personal="")
    alone = replace(base, rounds=replace(base.rounds, min_sites=1), train=train)
    wide = replace(alone, train=replace(train, batch_size=train.batch_size * len(sites)))
    out = settings.out / "studies"
    jobs = []
    if "federated" in settings.study:
        together = replace(base, rounds=quorum)
        jobs.append(
            FederationJob(study="federated", name="all", sites=tuple(sites), federation=together, out=out / "federated")
        )
    if "centralised" in settings.study:
        everyone = (one_site(sites, "pooled"),)
        jobs.append(
            FederationJob(study="centralised", name="pooled", sites=everyone, federation=wide, out=out / "centralised")
        )
    if "local" in settings.study:
        jobs += [
            FederationJob(study="local", name=s.site, sites=(s,), federation=alone, out=out / "local" / s.site)
            for s in sites
        ]
    return [replace(job, federation=declare_sites(job.federation, job.sites)) for job in jobs]


def declare_sites(federation: RunConfig, sites: Sequence[SiteConfig]) -> RunConfig:
    """The federation with the numbers of its sites and patients filled in, because the privacy terms need them."""
    cohort = sum(len(site.patients()) for site in sites)
    return replace(federation, privacy=replace(federation.privacy, cohort=cohort, sites=len(sites)))


# Keys that decide where, how fast and how patiently to run, but not the result.
_HARMLESS = ("out", "workers", "engine", "address", "rounds.deadline_s", "rounds.wait_for_sites_s", "rounds.attempts")
# Keys that may differ between the runs of a mean over seeds: folders and seeds.
_OF_ONE_RUN = ("seed", "model.init_seed", "name", "study", "data.root", "prior.path", "threads", "device")


def claim_folder(settings: RunSettings) -> None:
    """Write ``out/config.yaml``, or check that the one there asks for the same; more studies may join a run.

    Raises InputError naming the key that differs: the checkpoints in ``out`` know their configuration, not their data.
    """
    path = settings.out / "config.yaml"
    wanted = _decisive_values(settings.resolved)
    try:
        if path.is_file():
            there = _decisive_values(path.read_text())
            differing = [key for key in sorted({*there, *wanted} - {"study"}) if there.get(key) != wanted.get(key)]
            differing += ["study"] * (not set(there.get("study", [])) <= set(settings.study))
            if differing:
                raise InputError(
                    f"{settings.out}: holds a run with another {differing[0]}; choose another out (nothing was changed)"
                )
        write_text(path, settings.resolved, mode=ORDINARY)
    except OSError as error:
        raise InputError(f"out={settings.out}: cannot be used ({error.strerror}); choose another folder") from error


def check_alike(folders: Sequence[Path]) -> None:
    """InputError naming the key in which finished runs differ (the seed may): else their mean means nothing."""
    first: dict[str, Any] = {}
    for folder in folders:
        try:
            counted = _decisive_values((folder / "config.yaml").read_text())
        except OSError as error:
            raise InputError(f"{folder}/config.yaml: cannot be read ({error.strerror}); expected a run's") from None
        counted = {key: value for key, value in counted.items() if key not in _OF_ONE_RUN}
        first = first or counted
        for key in sorted({*first, *counted}):
            if first.get(key) != counted.get(key):
                raise InputError(
                    f"{folder}: {key}={counted.get(key)}, in {folders[0]} {first.get(key)};"
                    " expected runs that differ only in their seed"
                )


def _decisive_values(resolved: str) -> dict[str, Any]:
    """Dotted keys and values of a resolved configuration, without those that do not change the result."""
    flat: dict[str, Any] = {"regions": 0}  # a run of before there were regions

    def walk(values: dict[str, Any], prefix: str) -> None:
        for key, value in values.items():
            if isinstance(value, dict):
                walk(value, f"{prefix}{key}.")
            elif f"{prefix}{key}" not in _HARMLESS:
                flat[f"{prefix}{key}"] = value

    walk(dict(yaml.safe_load(resolved)), "")
    return flat


def run_studies(
    settings: RunSettings,
    bars: Progress,
    app: ClientApp = client_app,
    change: Callable[[list[SiteConfig]], list[SiteConfig]] = list,
) -> str:
    """Run or resume all studies, score them, write everything to ``settings.out``; returns the table and the paths.

    ``app`` replaces the hospitals' own, to put faults in. ``change``: what becomes of the hospitals before they train.
    """
    started = (time.monotonic(), time.process_time())
    torch.set_num_threads(settings.threads)
    use_prior_file(settings.prior_path)
    claim_folder(settings)
    sites = hospitals(settings.data, settings.partition, settings.out, settings.federation.seed)
    sites = [replace(site, cache=settings.out / "cache", device=settings.device) for site in change(sites)]
    jobs = plan_jobs(settings, sites)
    # A process has only one Ray, and forks where no other thread works. So jobs take turns, and the workers go to the
    # sites.
    in_turn = len(jobs) == 1 or settings.engine != "local"
    threads = 1 if in_turn else min(settings.workers, len(jobs))
    with sites_log(settings.out / "sites.log"), ThreadPoolExecutor(threads) as pool:
        workers = settings.workers if in_turn else 1
        models = list(pool.map(lambda job: run_job(job, settings, workers, bars, app), jobs))
    trained = {(job.study, job.name): model for job, model in zip(jobs, models, strict=True)}
    scores = score_studies(settings, sites, trained, bars)
    return write_results(settings, sites, trained, scores, started)


def run_job(
    job: FederationJob, settings: RunSettings, workers: int, bars: Progress, app: ClientApp = client_app
) -> TrainedModel:
    """One federation through Flower, from its last checkpoint; returns the final model."""
    paths = []
    for site in job.sites:
        path = job.out / "sites" / f"{site.site}.yaml"
        site.save(path)
        paths.append(path)
    label = job.study if job.name in ("all", "pooled") else f"{job.study} {job.name}"
    bar = bars.add_task(label, total=job.federation.rounds.count, note="")
    engines: Mapping[str, Callable[..., object]] = {
        "local": run_local,
        "processes": partial(run_local, kind=ProcessGrid),
        "ray": partial(run_ray, address=settings.address),
    }
    engine = engines[settings.engine]
    nodes: list[UserConfig] = [
        {NODE_CONFIG_KEY: str(path.resolve()), LEDGER_KEY: str((job.out / "ledgers" / path.stem).resolve())}
        for path in paths  # a Ray cluster works in another folder
    ]
    if settings.regions and job.study == "federated":
        tree = Tree.of(app, nodes, settings.regions, job.federation)
        app, nodes = tree.region_app(), tree.nodes()
    summed = job.federation.privacy.mode in SUMMED
    with enrol(nodes) if summed else nullcontext((nodes, Members())) as (known, members):
        engine(
            app,
            partial(federate, on_event=partial(_show, bars, bar), members=members),
            known,
            run_config(job.federation, job.out),
            workers=workers,
        )
    spec, vector, _ = load_adapter(job.out / ADAPTER)
    return TrainedModel(spec=spec, vector=vector)


def _show(bars: Progress, bar: TaskID, event: Event) -> None:
    """Move a federation's progress bar, and print a line as soon as a site is dropped."""
    if event.kind in ("round_done", "resumed"):
        loss = event.metrics.get("loss")
        bars.update(bar, completed=event.round, note="" if loss is None else f"loss {loss:.3f}")
        # A log file shows no progress bars, so print a line at the end.
        if not bars.console.is_terminal:
            bars.console.print(f"{bars.tasks[bar].description}: {event.line()}", markup=False)
    elif event.kind in LOUD:
        bars.console.print(event.line(), markup=False)
