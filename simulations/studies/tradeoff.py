"""`simulate tradeoff`: train the network that moves predicted doses as plans differ (shared_model/tradeoff).

The adapter predicts every patient once, as `client predict` does, and its doses are kept. Training patients teach; the
first validation patients choose the candidates' spread; all validation patients tell how well the network obeys.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from rich.progress import Progress
from torch import Tensor

from client.data.channel_cache import cached_patient, case_hash
from client.data.load import load_case
from client.data.npz import read_arrays, write_arrays
from client.site.config import SiteConfig
from shared_model.adapter.manifest import load_adapter, unpack, vector_hash
from shared_model.adapter.shared import adapted_model
from shared_model.base.model import DoseModel
from shared_model.bundled import DEFAULT_ADAPTER
from shared_model.channels.organs import as_inputs
from shared_model.core.errors import InputError
from shared_model.core.files import ORDINARY, whole_file, write_text
from shared_model.core.vector import Vector
from shared_model.network.seeding import noise_generator, seeded
from shared_model.network.spec import ModelSpec
from shared_model.patient.case import Case
from shared_model.prediction.predictor import predict_dose
from shared_model.tradeoff.learn import lesson
from shared_model.tradeoff.network import TradeoffNetwork
from shared_model.tradeoff.patient import TradeoffPatient
from shared_model.tradeoff.points import POINTS
from shared_model.tradeoff.prior import ChangePrior
from shared_model.tradeoff.saved import Tradeoff
from simulations.data.datasets import evaluation_sites
from simulations.settings.commands import DataSettings, data_settings
from simulations.settings.composition import check_number, check_range, compose_values, optional_path, path

FILE, CHECKPOINT, CURVE = "tradeoff.safetensors", "checkpoint.pt", "curve.csv"
_WARMUP = 50


@dataclass(frozen=True, kw_only=True)
class TradeoffSettings:
    """See simulations/conf/tradeoff.yaml."""

    data: DataSettings
    adapter: str
    out: Path
    cache: Path
    seed: int
    samples: int
    every: int
    choose: int
    threads: int
    lr: float
    weight_decay: float

    def __post_init__(self) -> None:
        for key, low, high in (("samples", 1, 10**7), ("every", 1, 10**7), ("choose", 1, 10**5), ("threads", 1, 256)):
            check_range(key, getattr(self, key), low, high)
        check_range("seed", self.seed, 0, 2**31)
        check_number("lr", self.lr, 1e-8, 1.0)
        check_number("weight_decay", self.weight_decay, 0.0, 1.0)


def tradeoff_settings(overrides: Sequence[str]) -> TradeoffSettings:
    """Compose and check ``simulate tradeoff``'s settings."""
    raw, _ = compose_values("tradeoff", overrides)
    out = path(raw["out"], "out")
    keys = ("seed", "samples", "every", "choose", "threads", "lr", "weight_decay")
    return TradeoffSettings(
        data=data_settings(raw),
        adapter=str(path(raw["adapter"], "adapter")),
        out=out,
        cache=optional_path(raw["cache"], "cache") or out / "cache",
        **{key: raw[key] for key in keys},
    )


@dataclass(frozen=True, kw_only=True)
class SharedDoses:
    """An adapter's doses of a site's patients, kept in ``cache``: one step, averaged with the mirrored patient."""

    spec: ModelSpec
    vector: Vector
    model: DoseModel
    cache: Path

    @cached_property
    def sha256(self) -> str:
        """Of the adapter's vector."""
        return vector_hash(self.vector)

    @classmethod
    def of(cls, adapter: Path, cache: Path) -> SharedDoses:
        """Of an adapter's file."""
        spec, vector, _ = load_adapter(adapter)
        model = adapted_model(spec)
        unpack(model, vector)
        model.eval()
        return cls(spec=spec, vector=vector, model=model, cache=cache)

    def dose_gy(self, case: Case) -> NDArray[np.float32]:
        """(z, y, x) on the case's grid."""
        key = hashlib.sha256(f"{self.sha256} {case_hash(case)}".encode()).hexdigest()[:32]
        kept = self.cache / "doses" / f"{key}.npz"
        if kept.is_file():
            return np.asarray(read_arrays(kept, ("dose",))["dose"], dtype=np.float32)
        with torch.no_grad():
            dose = predict_dose(self.model, case, self.spec, flips=True).numpy()
        write_arrays(kept, {"dose": dose.astype(np.float16)})
        return dose.astype(np.float16).astype(np.float32)

    def patient(self, case: Case, *, mirrored: bool = False) -> TradeoffPatient:
        """The patient with this adapter's dose; channels are kept too."""
        channels = cached_patient(as_inputs(case, self.spec.body_site), self.cache / "channels")
        return TradeoffPatient(channels, self.dose_gy(case)[channels.slices], mirrored=mirrored)


@dataclass(frozen=True, kw_only=True)
class Obeyed:
    """Over patients' points, Gy: root mean squares of wanted changes and of what was missed; how much was followed.

    ``followed``: slope of reached on wanted changes through zero. ``error_gy``: mean absolute error in the body.
    """

    wanted_gy: float
    missed_gy: float
    followed: float
    error_before_gy: float
    error_gy: float


def obeyed(network: TradeoffNetwork, patients: Sequence[TradeoffPatient]) -> Obeyed:
    """Ask for each patient's own plan's points."""
    wanted: list[Tensor] = []
    reached: list[Tensor] = []
    before: list[float] = []
    after: list[float] = []
    for patient in patients:
        assert patient.reference is not None
        change = patient.apart[None]
        with torch.no_grad():
            dose = patient.moved(network, patient.see(network), change, torch.ones_like(change))
        wanted.append(change[0] * patient.unit_gy)
        reached.append((patient.points.values(dose)[0] - patient.now) * patient.unit_gy)
        inside = patient.body > 0
        for errors, found in ((before, patient.dose), (after, dose[0])):
            errors.append(float((found - patient.reference).abs()[inside].mean()) * patient.unit_gy)
    asked, got = torch.cat(wanted), torch.cat(reached)
    return Obeyed(
        wanted_gy=float(asked.square().mean().sqrt()),
        missed_gy=float((got - asked).square().mean().sqrt()),
        followed=float((got * asked).sum() / asked.square().sum()),
        error_before_gy=float(np.mean(before)),
        error_gy=float(np.mean(after)),
    )


def train_tradeoff(settings: TradeoffSettings, bars: Progress) -> str:
    """Train, choose the spread, and write the file; returns what it reached in words."""
    torch.set_num_threads(settings.threads)
    path = DEFAULT_ADAPTER if settings.adapter == "default" else Path(settings.adapter)
    if not path.is_file():
        raise InputError(f"adapter={settings.adapter}: no such file; expected a .safetensors, or default")
    doses = SharedDoses.of(path, settings.cache)
    teach = _cases(settings, "train", bars, doses)
    held = [doses.patient(case) for case in _cases(settings, "validation", bars, doses)]
    if not teach or not held:
        raise InputError("simulate tradeoff: expected training and validation patients with a dose and a target")
    network = _train(settings, doses, teach, held, bars)
    plans = (doses.patient(case) for case in teach)
    prior = ChangePrior.of([(one.points.places, one.apart) for one in plans])
    made = Tradeoff(network=network, prior=prior, body_site=doses.spec.body_site, shared_sha256=doses.sha256)
    made = made.with_spread(chosen_spread(made, held[: settings.choose]))
    made.save(settings.out / FILE)
    found = obeyed(network, held)
    deviations = [f"{p.structure} {p.kind} {100 * d:.1f}" for p, d in zip(POINTS, prior.deviation(), strict=True)]
    told = (
        f"{len(held)} validation patients: wanted changes {found.wanted_gy:.2f} Gy, missed {found.missed_gy:.2f} Gy, "
        f"followed {found.followed:.2f}; error in the body {found.error_before_gy:.2f} -> {found.error_gy:.2f} Gy\n"
        f"spread {made.spread:.2f}; deviations of points, % of prescription: {', '.join(deviations)}\n"
        f"network   {settings.out / FILE}"
    )
    write_text(settings.out / "tradeoff.txt", told + "\n", mode=ORDINARY)
    return told


def chosen_spread(tradeoff: Tradeoff, patients: Sequence[TradeoffPatient], count: int = 16, seed: int = 0) -> float:
    """The factor on u for which organs' means differ among candidates by as much as the predicted dose misses them.

    Root mean squares over all patients' organs and the surroundings; the deviation of candidates is near enough
    proportional to the factor.
    """
    spread, misses = [], []
    for patient in patients:
        root = tradeoff.prior.root(patient.points.places)
        u = torch.randn(count, len(root), generator=noise_generator(seed, "spread"))
        means = [n for n, point in enumerate(patient.points.points) if point.kind == "mean"]
        moved = patient.mover(tradeoff.network)
        with torch.no_grad():
            drawn = [moved(one @ root.T) for one in u.split(4)]
        values = torch.cat([patient.points.values(part) for part in drawn])[:, means]
        spread.append(values.std(0))
        misses.append(patient.apart[means])
    return float(torch.cat(misses).square().mean().sqrt() / torch.cat(spread).square().mean().sqrt())


def _cases(settings: TradeoffSettings, split: str, bars: Progress, doses: SharedDoses) -> list[Case]:
    sites: list[SiteConfig] = evaluation_sites(settings.data, split, settings.out, settings.seed)
    named = [(site, case_id) for site in sites for case_id in site.validation]
    bar = bars.add_task(f"doses of {split} patients", total=len(named), note="")
    found = []
    for site, case_id in named:
        case = load_case(site, case_id)
        if case.dose_gy is not None and case.targets:
            doses.dose_gy(case)
            found.append(case)
        bars.advance(bar)
    return found


def _train(
    settings: TradeoffSettings,
    doses: SharedDoses,
    teach: Sequence[Case],
    held: Sequence[TradeoffPatient],
    bars: Progress,
) -> TradeoffNetwork:
    with seeded(settings.seed):
        network = TradeoffNetwork()
    optimiser = torch.optim.AdamW(network.parameters(), lr=settings.lr, weight_decay=settings.weight_decay)
    checkpoint = settings.out / CHECKPOINT
    done, curve = 0, []
    if checkpoint.is_file():
        kept = torch.load(checkpoint, weights_only=True)
        if kept["samples"] != settings.samples or kept["seed"] != settings.seed:
            raise InputError(f"{checkpoint}: of another training; expected its samples and seed, or another out=")
        network.load_state_dict(kept["network"])
        optimiser.load_state_dict(kept["optimiser"])
        done, curve = kept["done"], kept["curve"]
    bar = bars.add_task("training", total=settings.samples, completed=done, note="")
    began, before = time.process_time(), curve[-1]["cpu_min"] if curve else 0.0
    while done < settings.samples:
        generator = noise_generator(settings.seed, "tradeoff", str(done))
        order = torch.randperm(len(teach), generator=noise_generator(settings.seed, "order", str(done // len(teach))))
        mirrored = bool(torch.rand((), generator=generator) < 0.5)
        patient = doses.patient(teach[int(order[done % len(teach)])], mirrored=mirrored)
        for group in optimiser.param_groups:
            rising = min(1.0, (done + 1) / _WARMUP)
            group["lr"] = settings.lr * rising * 0.5 * (1 + math.cos(math.pi * done / settings.samples))
        optimiser.zero_grad(set_to_none=True)
        lesson(network, patient, generator).backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        done += 1
        bars.advance(bar)
        if done % settings.every == 0 or done == settings.samples:
            found = obeyed(network.eval(), held)
            row = {"samples": done, "cpu_min": before + (time.process_time() - began) / 60}
            row |= {"missed_gy": found.missed_gy, "followed": found.followed, "error_gy": found.error_gy}
            curve.append(row)
            _keep(settings, network, optimiser, done, curve)
            note = f"missed {found.missed_gy:.2f} of {found.wanted_gy:.2f} Gy, followed {found.followed:.2f}"
            bars.update(bar, note=note)
            if not bars.console.is_terminal:
                bars.console.print(f"{done} samples, {row['cpu_min']:.1f} CPU min: {note}")
    return network.eval()


def _keep(
    settings: TradeoffSettings,
    network: TradeoffNetwork,
    optimiser: torch.optim.Optimizer,
    done: int,
    curve: list[dict[str, float]],
) -> None:
    kept = {"network": network.state_dict(), "optimiser": optimiser.state_dict(), "done": done, "curve": curve}
    with whole_file(settings.out / CHECKPOINT) as file:
        torch.save({**kept, "samples": settings.samples, "seed": settings.seed}, file)
    with whole_file(settings.out / CURVE, ORDINARY) as stream:
        text = "\n".join([",".join(curve[0]), *(",".join(f"{v:.5g}" for v in row.values()) for row in curve)])
        stream.write((text + "\n").encode())
