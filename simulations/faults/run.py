"""`simulate faults`: the fault lab. A small federation is run once for each fault; a table says what came of it.

The sites train quadratics (simulations/engine/quadratic.py), so that a run takes milliseconds and its optimum is known;
all the rest is the code of a deployment: round loop, checkpoints, message schema, the sites' app. The same seed gives
the same table.
"""

from __future__ import annotations

import hashlib
import json
import random
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from flwr.app import UserConfig
from flwr.clientapp import ClientApp
from numpy.typing import NDArray

from client.app import client_app
from server.config.compose import compose_run
from server.config.run import RunConfig
from server.record.events import Listener
from server.rounds.loop import run_federation
from server.rounds.result import FederationResult
from shared_model.core.errors import FedKT3DError, InputError
from shared_model.core.files import ORDINARY, write_text
from simulations.engine.faults import LyingTraining, add_faults
from simulations.engine.local_grid import LocalGrid
from simulations.engine.process_grid import ProcessGrid
from simulations.engine.quadratic import MANIFEST_HASH, SPEC_JSON, QuadraticTraining, centre, write_sites
from simulations.faults.cuts import CutGrid
from simulations.faults.hostile import answers, requests
from simulations.faults.kills import kill_coordinator, killed_in
from simulations.faults.scenarios import LIE, Scenario, scenarios
from simulations.settings.faults import FaultsSettings


@dataclass(frozen=True, kw_only=True)
class FaultRow:
    """What came of one row. ``updates``: how many went into the vector; ``drops``: by reason; ``vector``: its hash.

    ``away``: distance of the vector from the honest sites' optimum, as a share of the distance at the start.
    ``same``: whether the vector is that of the healthy run, to the bit.
    """

    name: str
    what: str
    rounds: int
    updates: int
    drops: dict[str, int]
    away: float
    vector: str
    same: bool
    ended: str

    def cells(self) -> str:
        """The row of the table."""
        drops = ", ".join(f"{reason} {count}" for reason, count in self.drops.items()) or "-"
        same = "the same" if self.same else self.vector[:8]
        cells = [self.name, self.what, self.rounds, self.updates, drops, f"{self.away:.3f}", same, self.ended]
        return f"| {' | '.join(map(str, cells))} |"


@dataclass(frozen=True, kw_only=True)
class Lab:
    """The sites, their patients, and how long the coordinator waits for them."""

    folder: Path
    patients: dict[str, int]
    nodes: Sequence[UserConfig]
    size: int
    rounds: int
    deadline_s: float
    seed: int

    @classmethod
    def make(cls, settings: FaultsSettings, folder: Path) -> Lab:
        """Draw the patients and write the sites' configurations below ``folder``."""
        drawn = random.Random(settings.seed)
        patients = {f"site-{i + 1}": drawn.randint(2, 20) for i in range(settings.sites)}
        (folder / "sites").mkdir(parents=True)
        return cls(
            folder=folder,
            patients=patients,
            nodes=write_sites(folder / "sites", patients),
            size=settings.size,
            rounds=settings.rounds,
            deadline_s=settings.deadline_s,
            seed=settings.seed,
        )

    def config(self, scenario: Scenario) -> RunConfig:
        """The federation of a row."""
        asked = [
            "privacy.mode=none",
            f"seed={self.seed}",
            f"rounds.count={self.rounds}",
            f"rounds.min_sites={max(1, len(self.patients) // 2)}",
            f"rounds.deadline_s={self.deadline_s}",
            "rounds.wait_for_sites_s=30",
            "rounds.evaluate_every=0",
            "train.local_steps=2",
            "train.lr=0.4",
            "train.lr_final_fraction=1.0",
        ]
        return replace(compose_run([*asked, *scenario.overrides]), model={})

    def optimum(self, scenario: Scenario) -> NDArray[np.float64]:
        """Where the honest sites' losses are least, (d,): the mean of their centres, weighted as the row weighs."""
        honest = {site: count for site, count in self.patients.items() if site != scenario.liar}
        equal = "aggregate.weighting=equal" in scenario.overrides
        weights = np.array([1.0 if equal else count for count in honest.values()])
        centres = np.array([centre(site, self.size) for site in honest], dtype=np.float64)
        found: NDArray[np.float64] = weights @ centres / weights.sum()
        return found

    def federate(self, scenario: Scenario, on_event: Listener) -> FederationResult:
        """Run the row's federation, or go on with it where it was killed."""
        training = QuadraticTraining(self.size)
        honest = client_app(training)
        app = client_app(LyingTraining(training, site=scenario.liar, factor=LIE)) if scenario.liar else honest
        with self._grid(app, scenario) as grid:
            initial = np.zeros(self.size, np.float32)
            out = self.folder / scenario.name.replace(", ", "-").replace(" ", "-")
            return run_federation(grid, self.config(scenario), SPEC_JSON, MANIFEST_HASH, initial, out, on_event)

    def _grid(self, app: ClientApp, scenario: Scenario) -> LocalGrid:
        """What carries the row's messages, with one worker for each site."""
        if scenario.killed_site:
            dying = killed_in(app, scenario.killed_site, scenario.site_round)
            return ProcessGrid(dying, self.nodes, workers=len(self.nodes))
        cut = scenario.cuts
        return CutGrid(
            add_faults(app, scenario.faults),
            self.nodes,
            workers=len(self.nodes),
            cut=lambda place, number: (place, number) in cut,
        )


def run_faults(settings: FaultsSettings) -> str:
    """Run every row; writes faults.md and faults.json to ``out``; returns the tables."""
    folder = settings.out / "runs"
    shutil.rmtree(folder, ignore_errors=True)
    lab = Lab.make(settings, folder)
    rows: list[FaultRow] = []
    healthy = ""
    rows_of_seed = scenarios(settings.seed, list(lab.patients), settings.rounds, settings.deadline_s)
    names = [scenario.name for scenario in rows_of_seed]
    if unknown := [name for name in settings.faults if name not in names]:
        raise InputError(f"faults: no row {unknown[0]!r}; expected some of {', '.join(names)}")
    for scenario in rows_of_seed:
        if settings.faults and scenario.name not in (*settings.faults, "healthy"):
            continue
        rows.append(_outcome(lab, scenario, healthy))
        healthy = healthy or rows[0].vector
    vector = np.zeros(lab.size, np.float32)
    refusals = answers(client_app(QuadraticTraining(lab.size)), lab.nodes[0], requests(vector))
    table = _table(rows, refusals)
    write_text(settings.out / "faults.md", table, mode=ORDINARY)
    told = {"rows": [asdict(row) for row in rows], "hostile": dict(refusals)}
    write_text(settings.out / "faults.json", json.dumps(told, indent=1), mode=ORDINARY)
    return f"{table}\ntable     {settings.out / 'faults.md'}"


def _outcome(lab: Lab, scenario: Scenario, healthy: str) -> FaultRow:
    if scenario.killed:
        kill_coordinator(lambda kill: lab.federate(scenario, kill), scenario.killed)
    ended = "finished"
    result: FederationResult | None = None
    try:
        result = lab.federate(scenario, lambda _: None)
    except FedKT3DError as error:
        ended = type(error).__name__
    if result is None:
        return FaultRow(
            name=scenario.name,
            what=scenario.what,
            rounds=0,
            updates=0,
            drops={},
            away=1.0,
            vector="-",
            same=False,
            ended=ended,
        )
    if scenario.killed:
        ended = f"finished, resumed after round {result.resumed_from}"
    best = lab.optimum(scenario)
    digest = hashlib.sha256(result.vector.tobytes()).hexdigest()
    return FaultRow(
        name=scenario.name,
        what=scenario.what,
        rounds=result.rounds,
        updates=sum(len(record.sites) for record in result.history),
        drops=dict(sorted(Counter(drop.reason for record in result.history for drop in record.drops).items())),
        away=float(np.linalg.norm(result.vector - best) / np.linalg.norm(best)),
        vector=digest,
        same=digest == healthy,
        ended=ended,
    )


def _table(rows: Sequence[FaultRow], refusals: Sequence[tuple[str, str]]) -> str:
    lines = [
        "| fault | what | rounds | updates | dropped | away from the optimum | vector | end |",
        "|---|---|---:|---:|---|---:|---|---|",
        *(row.cells() for row in rows),
        "",
        "Away: distance to the optimum of the honest sites; 1 is where the run starts. Vector: the same as in the",
        "healthy run to the bit, or the start of its hash.",
        "",
        "| a hostile coordinator asks for | the site's answer |",
        "|---|---|",
        *(f"| {what} | {answer} |" for what, answer in refusals),
    ]
    return "\n".join(lines) + "\n"
