"""The one exchange that fits a closed-form base: add every site's integer sums as they arrive, then solve once.

The result is saved in ``out/base.json`` before the first round, so a restarted run goes on with it. Modules of
shared_model that load torch are imported where they are used: only a run needs them.
"""

from __future__ import annotations

import base64
import hashlib
import json
import time
import uuid
from dataclasses import asdict, dataclass, replace
from itertools import chain
from pathlib import Path

import numpy as np
from flwr.serverapp import Grid
from numpy.typing import NDArray

from privacy.wire.messages import wire_bytes
from server.config.identity import run_identity
from server.config.run import RunConfig
from server.record.events import Event, EventLog, Listener
from server.record.history import Drop
from server.record.journal import Journal
from server.rounds.result import QuorumError
from server.rounds.steps import Link
from server.sites.attendance import Attendance, ConnectedSite, Register
from server.sites.exchange import Answer, Exchange
from shared_model.core.errors import InputError
from shared_model.core.files import ORDINARY, write_text
from shared_model.network.spec import ModelSpec

Sums = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class BaseFit:
    """How a base was fitted: the ``sites`` that took part with their numbers of patients, and what it cost.

    ``residual`` is the root mean square training residual as a fraction of the prescription. ``patients`` counts the
    patients with targets. ``weights`` are the coefficients in the form of ModelSpec.base_weights. ``drops``: sites
    whose answers could not be used, with the reason.
    """

    weights: str
    sha256: str
    sites: dict[str, int]
    patients: int
    residual: float
    wire_bytes: int
    wall_s: float
    drops: tuple[Drop, ...]


def fit_base(
    grid: Grid, cfg: RunConfig, spec: ModelSpec, out: Path, on_event: Listener | None, register: Register
) -> tuple[ModelSpec, BaseFit | None]:
    """Fit the base of ``spec``. Return the new specification and how it was fitted.

    If there is nothing to fit, return ``spec`` unchanged and None. Raises InputError (``out`` holds another run's base)
    and QuorumError (too few sites gave usable sums).
    """
    if not spec.base_kind.fitted_by_sums or spec.base_weights:
        return spec, None
    from shared_model.adapter.manifest import manifest_hash

    path, manifest = out / "base.json", manifest_hash(spec)
    identity = run_identity(cfg, spec.to_json(), manifest, b"base")
    with Journal(out):  # its lock keeps others from writing to the folder
        if path.exists():
            fit = _read(path, identity)
        else:
            fit = _BaseFit(grid, cfg, spec, manifest, EventLog(out, on_event), register).run()
            write_text(path, json.dumps({"identity": identity, **asdict(fit)}, indent=1), mode=ORDINARY)
    return replace(spec, base_weights=fit.weights), fit


def _read(path: Path, identity: str) -> BaseFit:
    try:
        values = json.loads(path.read_text())
        found = values.pop("identity")
        values["drops"] = tuple(Drop(**drop) for drop in values["drops"])
        fit = BaseFit(**values)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: cannot be read ({type(error).__name__}); choose another output folder") from error
    if found != identity:
        raise InputError(
            f"{path.parent}: holds a run of another configuration or model; choose another output folder"
            " (nothing was written over)"
        )
    return fit


class _BaseFit:
    def __init__(
        self, grid: Grid, cfg: RunConfig, spec: ModelSpec, manifest: str, events: EventLog, register: Register
    ) -> None:
        self._cfg, self._spec, self._events = cfg, spec, events
        from shared_model.base import ridge

        self._link = Link(
            grid=grid,
            run_id=uuid.uuid4().hex,
            spec_json=spec.to_json(),
            manifest_hash=manifest,
            register=register,
        )
        self._wire_bytes = 0
        self._total: Sums = np.zeros(ridge.sums_size(spec.base_fourier), dtype=np.int64)

    def run(self) -> BaseFit:
        """Ask all connected sites until a quorum has answered, as often as the configuration allows."""
        rounds, started = self._cfg.rounds, time.monotonic()
        within_s = min(rounds.deadline_s, rounds.wait_for_sites_s)
        roster = Attendance(
            self._link.grid,
            self._link.request("describe"),
            run_id=self._link.run_id,
            answer_within_s=within_s,
            register=self._link.register,
        )
        drops: list[Drop] = []
        for _ in range(rounds.attempts):
            list(roster.gather(min_sites=rounds.min_sites, wait_s=rounds.wait_for_sites_s))
            sites = self._collect(roster.present(), drops)
            if len(sites) >= rounds.min_sites:
                return self._solve(sites, drops, time.monotonic() - started)
        named = dict.fromkeys(drop.line() for drop in [*roster.drops.values(), *drops])
        raise QuorumError(
            f"base: fewer than {rounds.min_sites} usable answers in {rounds.attempts} attempts"
            f" ({'; '.join(named) or f'{len(roster.present())} sites connected'})"
        )

    def _collect(self, sites: list[ConnectedSite], drops: list[Drop]) -> dict[str, int]:
        """Add up the sums of every site with a usable answer. Return these sites and their numbers of patients."""
        content = self._link.request("base")
        exchange = Exchange(self._link.grid, kind="base", round_number=0, run_id=self._link.run_id)
        unsent = exchange.send(content, {site.node: site.name for site in sites}, self._cfg.rounds.deadline_s)
        self._wire_bytes += wire_bytes(content) * (len(sites) - len(unsent))
        self._total[:] = 0
        accepted: dict[str, int] = {}
        for answer in chain(unsent, exchange.answers()):
            self._wire_bytes += answer.wire_bytes
            drop = self._judge(answer)
            if drop is None and answer.reply is not None:
                accepted[answer.site] = answer.reply.patients
            if drop is not None:
                drops.append(drop)
                self._events(Event(kind="site_dropped", site=drop.site, reason=drop.reason, detail=drop.detail))
        return accepted

    def _judge(self, answer: Answer) -> Drop | None:
        from shared_model.base import ridge

        reply = answer.reply
        if reply is None:
            return answer.drop
        if reply.sums is None:
            detail = "the answer is masked, but the request did not ask for that"
            return Drop(site=answer.site, reason="schema", detail=detail)
        try:
            ridge.check_sums(reply.sums, reply.patients, self._spec.base_fourier)
        except InputError as error:  # we wrote its text; it quotes nothing from the site
            return Drop(site=answer.site, reason="schema", detail=str(error))
        # Integers: the order of the sites does not matter.
        self._total += reply.sums
        return None

    def _solve(self, sites: dict[str, int], drops: list[Drop], wall_s: float) -> BaseFit:
        from shared_model.base import ridge

        solution = ridge.solve(self._total, self._spec.base_fourier)
        raw = np.asarray(solution.weights, dtype="<f4").tobytes()
        detail = f"base fitted to {solution.patients} patients of {len(sites)} sites"
        self._events(Event(kind="notice", sites=len(sites), detail=detail, wall_s=wall_s))
        return BaseFit(
            weights=base64.b64encode(raw).decode(),
            sha256=hashlib.sha256(raw).hexdigest(),
            sites=dict(sorted(sites.items())),
            patients=solution.patients,
            residual=solution.residual,
            wire_bytes=self._wire_bytes,
            wall_s=wall_s,
            drops=tuple(drops),
        )
