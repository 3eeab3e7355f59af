"""A federation that trains no network: each site has its own centre c, and its loss is |x - c|^2 / 2.

It uses the real round loop, ClientApp, site configuration and LocalGrid, and takes milliseconds. The optimum is known:
the mean of the centres, weighted by patients. For tests, fault studies and benchmarks.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from flwr.app import Context, UserConfig
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid

from client.app import LEDGER_KEY, NODE_CONFIG_KEY, client_app
from client.site.config import SiteConfig
from privacy.dp.encoding import FINE, Ring
from privacy.dp.noise import NoiseStream, integer_gaussian
from privacy.dp.release import clipped_sum, release
from privacy.dp.terms import SUMMED, PrivacyTerms
from privacy.wire.messages import EvaluateTask, TrainTask
from server.config.run import RunConfig
from server.record.events import Listener
from server.rounds.loop import run_federation
from server.rounds.public_gate import Check
from server.rounds.result import FederationResult
from server.sites.attendance import Members
from shared_model.core.errors import InputError
from shared_model.core.vector import Vector
from simulations.engine.consortium import enrol
from simulations.engine.local_grid import LocalGrid
from simulations.engine.run import run_local

SPEC_JSON = '{"model":"quadratic"}'
MANIFEST_HASH = hashlib.sha256(SPEC_JSON.encode()).hexdigest()


def no_delay(site: str, round_number: int) -> float:
    """Answer at once."""
    return 0.0


class QuadraticTraining:
    """Gradient steps on a site's quadratic, with noise keyed by (seed, site, round); ``delay``: seconds to wait."""

    def __init__(self, size: int, delay: Callable[[str, int], float] = no_delay) -> None:
        self._size, self._delay = size, delay

    def model(self, spec_json: str) -> tuple[str, int]:
        """The one model that it knows."""
        if spec_json != SPEC_JSON:
            raise InputError("spec: expected the quadratic")
        return MANIFEST_HASH, self._size

    def train_round(
        self, site: SiteConfig, spec_json: str, vector: Vector, task: TrainTask
    ) -> tuple[Vector, Mapping[str, float]]:
        """Take ``task.local_steps`` noisy gradient steps from ``vector`` (d,)."""
        time.sleep(self._delay(site.site, task.round))
        generator = np.random.default_rng([task.seed, task.round, *site.site.encode()])
        local, goal = vector.copy(), centre(site.site, self._size)
        for _ in range(task.local_steps):
            noise = 0.01 * generator.standard_normal(self._size, dtype=np.float32)
            local -= np.float32(task.lr) * (local - goal + noise)
        return local - vector, {"loss": _loss(local, goal)}

    def private_round(
        self, site: SiteConfig, spec_json: str, vector: Vector, task: TrainTask, terms: PrivacyTerms
    ) -> Vector | Ring:
        """Each patient pulls to the site's centre. Clips and adds noise as client/training/private_train.py does."""
        stream = NoiseStream()
        pull = centre(site.site, self._size) - vector
        total = clipped_sum(len(site.train), self._size, lambda _: pull, terms, stream)
        if terms.mode == "local":
            noised = total + integer_gaussian(terms.z * FINE, self._size, stream)
            step = noised * (task.lr * terms.clip / (FINE * terms.q * terms.cohort / terms.sites))
            return step.astype(np.float32)
        return release(total, terms, stream)

    def evaluate_round(
        self, site: SiteConfig, spec_json: str, vector: Vector, task: EvaluateTask
    ) -> Mapping[str, float]:
        """Loss of the shared vector."""
        return {"loss": _loss(vector, centre(site.site, self._size))}


def centre(site: str, size: int) -> Vector:
    """Centre of a site's quadratic, (size,), made from its name."""
    return np.random.default_rng(list(site.encode())).standard_normal(size, dtype=np.float32)


def _loss(vector: Vector, goal: Vector) -> float:
    return float(0.5 * np.mean(np.square(vector - goal, dtype=np.float64)))


def write_sites(folder: Path, patients: Mapping[str, int]) -> list[UserConfig]:
    """Write each site's configuration, with its training patients and one for validation; returns node configs."""
    configs: list[UserConfig] = []
    for name, count in patients.items():
        path = folder / f"{name}.yaml"
        cases = tuple(f"pt_{i}" for i in range(count))
        SiteConfig(site=name, data="cases", root=folder, train=cases, validation=("pt_v",)).save(path)
        configs.append({NODE_CONFIG_KEY: str(path), LEDGER_KEY: str(folder / "ledgers" / name)})
    return configs


def run_quadratic(
    out: Path,
    config: RunConfig,
    nodes: Sequence[UserConfig],
    *,
    size: int = 64,
    workers: int = 1,
    app: ClientApp | None = None,
    on_event: Listener | None = None,
    check: Check | None = None,
    kind: type[LocalGrid] = LocalGrid,
) -> FederationResult:
    """Run the federation from a vector of zeros (size,); ``app`` replaces the client app, to put faults in.

    ``check``: what rounds are judged by (server/rounds/public_gate.py). ``kind``: the grid that carries the messages.
    """
    initial = np.zeros(size, dtype=np.float32)

    def run(nodes: Sequence[UserConfig], members: Members) -> FederationResult:
        def server(grid: Grid, _: Context) -> FederationResult:
            return run_federation(grid, config, SPEC_JSON, MANIFEST_HASH, initial, out, on_event, members, check=check)

        result = run_local(app or client_app(QuadraticTraining(size)), server, nodes, {}, workers, kind)
        assert result is not None
        return result

    if config.privacy.mode not in SUMMED:
        return run(nodes, Members())
    with enrol(nodes) as (known, members):
        return run(known, members)
