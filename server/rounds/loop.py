"""The round loop: describe, then train and evaluate round by round, with quorum, deadline, checkpoints and resume.

It knows no model. It works on any flat float32 vector and any client app that speaks privacy/wire/messages.py. Replies
are joined as they arrive (server/strategy/): the mean as a sum, so that memory does not grow with the sites. The result
does not depend on who answers first. A site that misbehaves is dropped from one round only, by name and reason.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from flwr.serverapp import Grid

from server.config.identity import run_identity
from server.config.run import RunConfig
from server.config.schedule import evaluate_task, round_lr, train_task
from server.record.attempts import Attempts
from server.record.events import Event, EventLog, Listener
from server.record.history import Drop, PublicVerdict
from server.record.journal import Journal, RunState
from server.rounds.advance import Masks, adapter_of, advance
from server.rounds.buffered import BufferedSteps
from server.rounds.kept_sums import keep_mean
from server.rounds.masked_sum import SumForm
from server.rounds.patient_counts import count_patients
from server.rounds.public_gate import Check, PublicGate, stop_reason
from server.rounds.result import FederationResult, QuorumError
from server.rounds.retries import Waiting, pause_s
from server.rounds.secure_step import SummedSteps
from server.rounds.steps import Link, TrainOutcome, TrainRules, evaluate_step, hand_out, train_step
from server.sites.attendance import Attendance, ConnectedSite, Members
from server.strategy.choose import Joining, server_optimiser
from shared_model.adapter.factors import Factors
from shared_model.core.errors import FedKT3DError, InputError
from shared_model.core.vector import Vector

_ALL = Members()


def run_federation(
    grid: Grid,
    cfg: RunConfig,
    spec_json: str,
    manifest_hash: str,
    initial: Vector,
    out: Path,
    on_event: Listener | None = None,
    members: Members = _ALL,
    masks: Masks | None = None,
    check: Check | None = None,
    pairs: Sequence[Factors] = (),
) -> FederationResult:
    """Run a federation to its last round. It goes on where an earlier start with the same configuration stopped.

    ``initial`` is the shared vector (d,) float32 before round 1; ``members``: who may take part; ``masks``: stage ->
    which numbers of the vector it trains, (d,), by default all; ``check`` judges each round; ``pairs``:
    the model's low-rank factors. In mode none the same
    configuration, seed and answering sites give the same vector to the bit. Raises InputError (``out`` holds another
    configuration, or the vector is bad) and QuorumError.
    """
    if initial.dtype != np.float32 or initial.ndim != 1 or initial.size < 1 or not np.isfinite(initial).all():
        raise InputError("initial vector: expected one flat, finite float32 array of at least one value")
    identity = run_identity(cfg, spec_json, manifest_hash, initial.tobytes())
    with Journal(out) as journal:
        state, notices = journal.load(identity)
        events = EventLog(out, on_event)
        for notice in notices:
            events(Event(kind="notice", detail=notice))
        resumed_from = 0 if state is None else state.round
        if state is None:
            optimizer = server_optimiser(cfg.aggregate).initial_state(initial.size)
            state = RunState(run_id=uuid.uuid4().hex, identity=identity, round=0, vector=initial, optimizer=optimizer)
            journal.save(state)
            events(Event(kind="started", rounds=cfg.rounds.count))
        else:
            events(Event(kind="resumed", round=state.round, rounds=cfg.rounds.count))
        link = Link(
            grid=grid, run_id=state.run_id, spec_json=spec_json, manifest_hash=manifest_hash, register=members.register
        )
        run = _Federation(link, cfg, events, state, masks, members, out, check, pairs)
        run.run_to_end(journal)
        result = run.result(resumed_from)
        events(Event(kind="finished", round=result.rounds, rounds=cfg.rounds.count, detail=result.stopped))
    return result


class _Federation:
    """One run in one process: the configuration, the sites and the state that advances round by round."""

    def __init__(
        self,
        link: Link,
        cfg: RunConfig,
        events: EventLog,
        state: RunState,
        masks: Masks | None,
        members: Members,
        out: Path,
        check: Check | None,
        pairs: Sequence[Factors],
    ) -> None:
        self._link, self._cfg, self._events, self._state = link, cfg, events, state
        self._masks = masks or (lambda _: np.ones(state.vector.size, dtype=bool))
        self._joining = Joining(config=cfg.aggregate, max_norm=cfg.rounds.max_update_norm, pairs=pairs)
        self._gate = PublicGate(cfg, check) if check is not None else None
        form = SumForm.of(cfg)
        self._out, self._members = out, members
        self._buffered = BufferedSteps(link, cfg.rounds.buffer) if cfg.rounds.buffer else None
        self._summed = None if form is None else SummedSteps(link, form, cfg, self._masks, members, out)
        self._privacy = "" if form is None or form.noise is None else form.noise.to_json()
        self._exact = "" if form is None or form.exact is None else form.exact.to_json()
        self._attempts, self._log = Attempts(out, link.run_id), members.log
        self._sites: dict[str, int] = dict(state.sites)
        self._earlier_drops = state.drops
        self._roster = Attendance(
            link.grid,
            link.request("describe"),
            run_id=link.run_id,
            answer_within_s=min(cfg.rounds.deadline_s, cfg.rounds.wait_for_sites_s),
            register=link.register,
        )

    def run_to_end(self, journal: Journal) -> None:
        """Train and evaluate until the last round. Save a checkpoint after each step that takes time."""
        if self._state.round == 0:
            asks = partial(self._gather, 1), partial(self._witness, 0), self._emit
            count_patients(self._link, self._cfg, self._members, self._out, *asks)
        while True:
            if self._evaluation_is_due():
                self._state = self._evaluate()
            elif self._state.round < self._cfg.rounds.count and not stop_reason(self._state.history):
                self._state = self._train()
            else:
                if self._log is not None:
                    hand_out(self._link, self._roster.present(), within_s=20.0)
                return
            self._state = replace(self._state, sites=dict(self._sites), drops=self._drops())
            journal.save(self._state)

    def result(self, resumed_from: int) -> FederationResult:
        """Return the result of the run."""
        history = self._state.history
        return FederationResult(
            vector=adapter_of(self._state.vector, self._state.optimizer),
            rounds=self._state.round,
            sites=dict(sorted(self._sites.items())),
            history=history,
            drops=self._drops(),
            wire_bytes_per_round=round(sum(record.wire_bytes for record in history) / max(1, len(history))),
            resumed_from=resumed_from,
            stopped=stop_reason(history),
        )

    def _drops(self) -> tuple[Drop, ...]:
        """Return the nodes that never became a site, including those of earlier starts."""
        return tuple(dict.fromkeys((*self._earlier_drops, *self._roster.drops.values())))

    def _train(self) -> RunState:
        """Train one more round, in as many attempts as the configuration allows; raises QuorumError."""
        number, rounds = self._state.round + 1, self._cfg.rounds
        earlier, drops = self._attempts.count(number), self._attempts.drops(number)
        last = self._state.history[-1] if self._state.history else None
        standing = None if self._gate is None else self._gate.standing(number, self._state.vector, last)
        kept = None if self._summed is None else self._summed.read_kept(number)
        if kept is not None:
            return self._apply(number, max(earlier, kept[0]), kept[1], (*drops, *kept[1].drops), standing)
        for tried in range(1, rounds.attempts + 1):
            sites = self._gather(number, steady_s=pause_s(tried, rounds.wait_for_sites_s))
            accepted, failed, least = len(sites), "", max(rounds.min_sites, len(self._frozen()))
            if accepted >= least:
                self._emit(Event(kind="round_started", round=number, sites=len(sites)))
                attempt = self._attempts.begin(number)
                outcome = self._attempt(number, attempt, sites)
                drops = (*self._attempts.drops(number), *outcome.drops)
                accepted, failed = len(outcome.sites), outcome.failed and f" ({outcome.failed})"
                self._roster.note(outcome.drops)
                if accepted >= rounds.min_sites:
                    if self._summed is None and rounds.keep == "means":
                        keep_mean(self._out, number, self._link.run_id, attempt, outcome)
                    return self._apply(number, attempt, outcome, drops, standing)
                self._attempts.note_failure(number, outcome.drops)
            why = f"{accepted} of at least {least} sites in attempt {tried} of {rounds.attempts}{failed}"
            self._emit(Event(kind="round_failed", round=number, sites=accepted, detail=why))
        named = [d.line() for d in (*self._roster.drops.values(), *(d for d in drops if d.attempt > earlier))]
        raise QuorumError(
            f"round {number}: fewer than {rounds.min_sites} usable answers in {rounds.attempts} attempts"
            f" ({'; '.join(dict.fromkeys(named)) or f'{len(self._roster.present())} sites connected'});"
            " the last checkpoint is kept: start the run again to go on"
        )

    def _gather(self, number: int, steady_s: float = 0.0) -> list[ConnectedSite]:
        """Add new sites. Wait for a quorum at the start, after a failed attempt and when too few sites can be asked.

        Where all sums are over the same sites, the quorum is those sites, and no other is asked to work.
        """
        rounds, frozen, here = self._cfg.rounds, self._frozen(), self._roster.present()
        least = rounds.min_sites
        waiting = not self._sites or len(here) < least or not frozen <= {site.name for site in here} or steady_s > 0.0
        # A run that has begun waits for its sites: that costs nobody anything.
        patience_s = (rounds.wait_for_return_s if self._state.round else rounds.wait_for_sites_s) if waiting else 0.0
        said = Waiting(self._emit, self._roster, number, least)
        for news in self._roster.gather(
            min_sites=least, wait_s=patience_s, names=frozen, steady_s=steady_s, on_wait=said
        ):
            if isinstance(news, ConnectedSite):
                self._sites[news.name] = news.patients
                self._emit(Event(kind="site_joined", round=number, site=news.name, detail=f"{news.patients} patients"))
            else:
                self._witness(number, news.site, news)
        return [site for site in self._roster.present() if not frozen or site.name in frozen]

    def _frozen(self) -> frozenset[str]:
        """Return the sites that every further sum is over; none where sums may be over any."""
        history = self._state.history
        return frozenset() if self._summed is None or not history else self._summed.freeze(history[0].sites)

    def _attempt(self, number: int, attempt: int, sites: list[ConnectedSite]) -> TrainOutcome:
        rounds, task = self._cfg.rounds, train_task(self._cfg, number, self._privacy, self._exact)
        witness = partial(self._witness, number)
        if self._summed is not None:
            return self._summed.step(task, self._state.vector, sites, attempt, witness)
        rules = TrainRules(
            deadline_s=rounds.deadline_s,
            joining=self._joining,
            by_patients=self._cfg.aggregate.weighting == "patients",
            attempt=attempt,
        )
        if self._buffered is not None:
            return self._buffered.step(task, self._state.vector, sites, rules, witness)
        return train_step(self._link, task, self._state.vector, sites, rules, witness)

    def _apply(
        self,
        number: int,
        attempt: int,
        outcome: TrainOutcome,
        drops: tuple[Drop, ...],
        standing: PublicVerdict | None,
    ) -> RunState:
        assert outcome.total is not None
        state = self._state
        vector, optimizer = advance(self._cfg, self._masks, number, outcome.total, state.vector, state.optimizer)
        if not np.isfinite(vector).all():
            raise FedKT3DError(f"round {number}: the shared vector overflowed float32; lower aggregate.lr or train.lr")
        verdict = None if self._gate is None or standing is None else self._gate.verdict(number, standing, vector)
        lr = round_lr(self._cfg.train, number, self._cfg.rounds.count)
        record = outcome.record(number, lr, attempt, drops, verdict)
        if record.rolled_back:
            assert verdict is not None
            vector, optimizer = state.vector, state.optimizer
            self._emit(Event(kind="rolled_back", round=number, detail=verdict.why))
        if self._log is not None:  # before the checkpoint: a round that is gone on from is in the log
            self._log.add_round(self._link.run_id, record, state.vector, vector, outcome.numbers)
        shown, size = record.shown_metrics(), record.wire_bytes
        done = Event(kind="round_done", round=number, sites=len(record.sites), metrics=shown, wire_bytes=size)
        self._emit(replace(done, wall_s=record.wall_s))
        history = (*state.history, record)
        return replace(state, round=number, vector=vector, optimizer=optimizer, history=history)

    def _evaluation_is_due(self) -> bool:
        every, number = self._cfg.rounds.evaluate_every, self._state.round
        if every == 0 or number == 0 or self._state.history[-1].evaluation is not None:
            return False
        return number % every == 0 or number == self._cfg.rounds.count or bool(stop_reason(self._state.history))

    def _evaluate(self) -> RunState:
        number = self._state.round
        task = evaluate_task(self._cfg, number, self._exact)
        started, sites, witness = time.monotonic(), self._gather(number), partial(self._witness, number)
        vector = self._state.vector
        if self._buffered is not None:  # who is at work is not asked to score beside it
            sites = [site for site in sites if site.name not in self._buffered.at_work] or sites
        if self._summed is not None:
            evaluation = self._summed.evaluate(task, vector, sites, witness)
        else:
            evaluation = evaluate_step(self._link, task, vector, sites, self._cfg.rounds.deadline_s, witness)
        wall_s = time.monotonic() - started
        count, means = len(evaluation.per_site), evaluation.metrics
        self._emit(Event(kind="evaluated", round=number, sites=count, metrics=means, wall_s=wall_s))
        *earlier, last = self._state.history
        return replace(self._state, history=(*earlier, replace(last, evaluation=evaluation)))

    def _witness(self, number: int, site: str, drop: Drop | None) -> None:
        if drop is None:
            self._emit(Event(kind="site_done", round=number, site=site))
        else:
            self._emit(Event(kind="site_dropped", round=number, site=site, reason=drop.reason, detail=drop.detail))

    def _emit(self, event: Event) -> None:
        self._events(replace(event, rounds=self._cfg.rounds.count))
