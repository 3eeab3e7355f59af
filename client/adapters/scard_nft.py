"""ScardNFT: a private adapter learns the hospital's own scorecard, at the hospital (docs/method.md, stage C).

Each epoch does this for each patient. It draws K candidate doses of the old policy (candidates.py). Each candidate gets
a raw reward: the score minus a hinge for hard constraints, minus an anchor on the mean absolute error to the reference
dose, so that lowering all dose wins no points. Rewards are taken about their patient's mean. One step of DiffusionNFT
(shared_model/diffusion/nft.py) trains on the candidates, at the noise times where the policy makes its dose, plus
``guided`` times the distance to the guide (guide.py), ``lambda_diffusion`` times the diffusion loss on the reference
and ``kl`` times the distance to the shared policy. The old policy follows as a moving average.

Held-back patients choose the best epoch and strength among those whose error has not drifted, neither theirs nor that
of all patients together: a site holds few back, and a bound that holds on two does not hold on others. Training stops
when there is no better one for some epochs. Strength is how far to go from the shared model to the trained weights, or
beyond. The shared model lies near the least error, so a share of the way costs less than its share of error; and a
guide that few steps have only begun to follow lies further on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field

import torch
from torch import Tensor

from client.adapters.candidates import Candidates, drawing, noised
from client.adapters.guide import distance, guide
from client.adapters.patients import ScoredPatient
from client.adapters.settings import AlignSettings
from shared_model.adapter.private import OLD, PrivatePolicy
from shared_model.adapter.shared import PRIVATE
from shared_model.core.errors import InputError
from shared_model.diffusion.nft import nft_loss, reward_variance, reward_weights
from shared_model.forms.interface import Denoiser
from shared_model.network.schedule import recover, shift_time
from shared_model.network.seeding import noise_generator
from shared_model.tradeoff.saved import Tradeoff

# The first is what a progress line reports.
STRENGTHS = (1.0, 0.25, 0.5, 0.75, 1.25, 1.5, 2.0, 3.0)
# Share of itself that the running variance of rewards keeps in a step.
RECENT = 0.9


@dataclass(kw_only=True)
class AlignState:
    """The whole state of an alignment; ``client/adapters/align.py`` writes it after each epoch and reads it back.

    ``mae_gy``: of the shared model, over all patients.
    """

    epoch: int = 0
    steps: int = 0
    best_epoch: int = 0
    best_strength: float = 1.0
    best_score: float = 0.0
    mae_gy: float = 0.0
    variance: float = 0.0
    history: list[dict[str, float]] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class Held:
    """Means over the held-back patients; ``broken``: hard constraints beyond their bound, as in ``rewards``."""

    score: float
    mae_ref5_gy: float
    broken: float


class Alignment:
    """Trains the private weights of ``policy`` on ``train``; every random draw is keyed by seed, epoch and patient."""

    def __init__(
        self,
        policy: PrivatePolicy,
        train: Sequence[ScoredPatient],
        held: Sequence[ScoredPatient],
        settings: AlignSettings,
        tradeoff: Tradeoff | None = None,
    ) -> None:
        """``tradeoff``: how plans differ: candidates (candidates.py) and guides of a model of volumes follow it."""
        if policy.spec.switches.predicts != "v":
            raise InputError("alignment needs a model that predicts v (model.switches.predicts)")
        if not train or not held:
            raise InputError("alignment needs at least one training and one held-back patient with a reference dose")
        self.policy, self.settings = policy, settings
        self._train, self._held = train, held
        self._drawing = drawing(policy.form.mean_in_one_step, tradeoff)
        self._tradeoff = tradeoff if policy.form.mean_in_one_step and settings.guided > 0 else None
        self._guides: dict[str, Tensor] = {}
        self._parameters = list(policy.parameters().values())
        self.optimiser = torch.optim.AdamW(self._parameters, lr=settings.lr, weight_decay=1e-4)
        self.state = AlignState()
        self._start = _copy_weights(policy)
        self.mean = _copy_weights(policy)  # moving average of the weights: less noisy than the newest ones
        self.best = self._start

    def run(self, epoch_done: Callable[[dict[str, float]], None], patient_done: Callable[[], None]) -> None:
        """Train from the present state to the last epoch or an early stop. The best weights end in the policy."""
        if not self.state.history:
            self._begin(epoch_done)
        while self.state.epoch < self.settings.epochs and not self._has_stalled():
            self.state.epoch += 1
            self._note(epoch_done, self._epoch(patient_done))
        self._set(self.best)

    def _begin(self, epoch_done: Callable[[dict[str, float]], None]) -> None:
        held = self.held_back()
        self.state.best_score, self.state.mae_gy = held.score, self.mae_gy()
        self.state.history.append({"epoch": 0.0, **asdict(held)})
        epoch_done(self.state.history[-1])

    def _note(self, epoch_done: Callable[[dict[str, float]], None], sums: dict[str, float]) -> None:
        """Score the held-back patients at each strength, keep the best so far, and report the full strength."""
        stand, before = _copy_weights(self.policy), self.state.history[0]
        most = 1.0 + self.settings.mae_drift
        entry: dict[str, float] = {"epoch": float(self.state.epoch), **sums}
        found: list[tuple[float, float]] = []
        for strength in STRENGTHS:
            self._go(strength)
            held = self.held_back()
            entry = entry if "score" in entry else {**entry, **asdict(held)}
            if held.mae_ref5_gy <= before["mae_ref5_gy"] * most and held.broken <= before["broken"]:
                found.append((held.score, strength))
        for score, strength in sorted(found, reverse=True):
            self._go(strength)
            if score > self.state.best_score and self.mae_gy() <= self.state.mae_gy * most:
                self.state.best_epoch, self.state.best_strength = self.state.epoch, strength
                self.state.best_score, self.best = score, _copy_weights(self.policy)
        self._set(stand)
        self.state.history.append(entry)
        epoch_done(entry)

    def _go(self, strength: float) -> None:
        self._set({name: self._start[name].lerp(weight, strength) for name, weight in self.mean.items()})

    def _set(self, weights: Mapping[str, Tensor]) -> None:
        with torch.no_grad():
            for name, parameter in self.policy.parameters().items():
                parameter.copy_(weights[name])

    def _has_stalled(self) -> bool:
        return self.state.epoch - self.state.best_epoch >= self.settings.patience

    def held_back(self) -> Held:
        """Score, error and broken constraints of the policy's predictions of the held-back patients."""
        rows = []
        for patient in self._held:
            dose = self.predict(patient)[None]
            values = patient.card.values(dose)
            broken = _weighted_sum(patient, patient.card.violations(values)) / patient.card.weight
            rows.append([float(patient.card.score(dose)), float(patient.mae_gy(dose)), float(broken)])
        score, mae, broken_mean = (sum(column) / len(rows) for column in zip(*rows, strict=True))
        return Held(score=score, mae_ref5_gy=mae, broken=broken_mean)

    def mae_gy(self) -> float:
        """Mean error of the policy's predictions of all patients, of training too."""
        errors = [float(patient.mae_gy(self.predict(patient)[None])) for patient in (*self._train, *self._held)]
        return sum(errors) / len(errors)

    def predict(self, patient: ScoredPatient) -> Tensor:
        """The dose (z, y, x) that the site would predict with the private adapter."""
        settings, model = self.settings, self.policy.use(PRIVATE)
        return patient.sample(model, settings.predict_steps, settings.predict_candidates, seed=settings.seed).mean(0)

    def _epoch(self, patient_done: Callable[[], None]) -> dict[str, float]:
        """Go once over the training patients; return sums for the progress line."""
        epoch = self.state.epoch
        order = torch.randperm(len(self._train), generator=noise_generator(self.settings.seed, "order", str(epoch)))
        rewards: list[Tensor] = []
        losses: list[float] = []
        for start in range(0, len(order), self.settings.batch):
            patients = [self._train[i] for i in order[start : start + self.settings.batch].tolist()]
            drawn = []
            for patient in patients:
                drawn.append(self._draw(patient))
                patient_done()
            raw = torch.stack([draw.rewards for draw in drawn])
            rewards.append(raw.mean(1))
            losses.append(self._step(patients, drawn, reward_weights(raw, self._variance(raw))))
        reward = torch.cat(rewards)
        return {"reward": float(reward.mean()), "loss": sum(losses) / len(losses)}

    def _variance(self, raw_pk: Tensor) -> float:
        """That of rewards over the newest patients, this batch among them: of few steps all count alike."""
        keep = min(RECENT, self.state.steps / (self.state.steps + 1.0))
        self.state.variance = keep * self.state.variance + (1.0 - keep) * reward_variance(raw_pk)
        return self.state.variance

    @torch.no_grad()
    def _draw(self, patient: ScoredPatient) -> _Scored:
        """Draw candidates of the old policy and score them."""
        generator = noise_generator(self.settings.seed, "align", patient.case.case_id, str(self.state.epoch))
        wanted = self._guide(patient)
        found = self._drawing(self._network(OLD, patient), patient, self.settings, generator)
        return _Scored(candidates=found, rewards=self.rewards(patient, found.doses_gy), wanted=wanted)

    def _network(self, policy: str | None, patient: ScoredPatient) -> Denoiser:
        """The network under ``policy`` for the dose of one patient."""
        return patient.form.denoiser(self.policy.use(policy).network, patient.encoded)

    def rewards(self, patient: ScoredPatient, dose_kzyx: Tensor) -> Tensor:
        """Raw reward of each candidate, (k,), in points of 100."""
        card, settings = patient.card, self.settings
        values = card.values(dose_kzyx)
        hinge = settings.penalty * _weighted_sum(patient, card.violations(values))
        score = 100.0 * (card.points(values).sum(1) - hinge) / card.weight
        return score - settings.anchor * patient.mae_gy(dose_kzyx)

    def _step(self, patients: Sequence[ScoredPatient], drawn: Sequence[_Scored], weights_pk: Tensor) -> float:
        """One step of the optimiser over a batch of patients, and of the old policy after it; returns the loss."""
        self.optimiser.zero_grad(set_to_none=True)
        total = 0.0
        for patient, draw, r in zip(patients, drawn, weights_pk, strict=True):
            loss = self._loss(patient, draw, r) / len(patients)
            loss.backward()
            total += float(loss.detach())
        torch.nn.utils.clip_grad_norm_(self._parameters, 1.0)
        self.optimiser.step()
        self.state.steps += 1
        self.policy.follow(min(0.001 * self.state.steps, self.settings.old_most))
        keep = min(self.settings.smooth, self.state.steps / (self.state.steps + 1.0))
        for name, parameter in self.policy.parameters().items():
            self.mean[name].lerp_(parameter.detach(), 1.0 - keep)
        return total

    def _loss(self, patient: ScoredPatient, scored: _Scored, r: Tensor) -> Tensor:
        """The mean loss over the candidates' states with the guide's, and the diffusion loss on the reference."""
        settings, drawn = self.settings, scored.candidates
        generator = noise_generator(settings.seed, "reference", patient.case.case_id, str(self.state.epoch))
        k = len(drawn.x0)
        shared = self._shared_velocities(patient, drawn) if settings.kl > 0 else [None] * len(drawn.states)
        network = self._network(PRIVATE, patient)
        losses = []
        for state, v_old, v_shared in zip(drawn.states, drawn.v_old, shared, strict=True):
            v = network(state.x_t, state.t_b)
            v_theta = v.expand(k, -1, -1, -1, -1)
            x_t, t_b = state.x_t.expand_as(v_theta), state.t_b.expand(k)
            old = v_old.expand_as(v_theta)
            losses.append(nft_loss(settings.form, drawn.x0, x_t, state.v, t_b, old, v_theta, r, settings.beta))
            if v_shared is not None:
                losses[-1] = losses[-1] + settings.kl * (v_theta - v_shared).square().mean()
            if scored.wanted is not None:
                made, _ = recover(state.x_t, v, state.t_b)
                losses[-1] = losses[-1] + settings.guided * distance(made, scored.wanted)
        loss = torch.stack(losses).mean()
        if settings.lambda_diffusion > 0:
            reference = patient.form.clean(patient.encoded)[None]
            t = shift_time(torch.rand((), generator=generator), patient.form.shift)
            state = noised(patient, reference, t, generator)
            error = network(state.x_t, state.t_b) - state.v
            loss = loss + settings.lambda_diffusion * error.square().mean()
        return loss

    def _guide(self, patient: ScoredPatient) -> Tensor | None:
        """Made once a patient: it is of the shared model, which stays as it is. None where nothing guides."""
        case_id = patient.case.case_id
        if self._tradeoff is not None and case_id not in self._guides:
            self._guides[case_id] = guide(self._tradeoff, self._network(None, patient), patient)
        return self._guides.get(case_id)

    @torch.no_grad()
    def _shared_velocities(self, patient: ScoredPatient, drawn: Candidates) -> list[Tensor]:
        network = self._network(None, patient)
        return [network(state.x_t, state.t_b) for state in drawn.states]


@dataclass(frozen=True, kw_only=True)
class _Scored:
    """A patient's candidates with their raw rewards (k,), and its guide."""

    candidates: Candidates
    rewards: Tensor
    wanted: Tensor | None


def _copy_weights(policy: PrivatePolicy) -> dict[str, Tensor]:
    return {name: parameter.detach().clone() for name, parameter in policy.parameters().items()}


def _weighted_sum(patient: ScoredPatient, of_criteria_bc: Tensor) -> Tensor:
    """Sum over criteria, each times its weight, (b,)."""
    weights = torch.tensor([c.weight for c in patient.card.criteria], dtype=of_criteria_bc.dtype)
    return (of_criteria_bc * weights).sum(1)
