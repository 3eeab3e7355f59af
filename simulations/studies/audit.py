"""`simulate audit`: noise energy, one-run audit and attacks, through the release that a hospital would send.

The attacks use gradients of the real model on phantom patients: low-rank adapters on the bundled prior, and for
inversion the transformer's patch embedding of the CT.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from client.site.config import SiteConfig
from client.training.patient_gradients import Patients, patients_of
from client.training.train import resident_model
from privacy.audit.membership import attack_knowing_others, bound, plain_release
from privacy.audit.noise_energy import noise_energy, null_round
from privacy.audit.one_run import one_run_audit
from privacy.dp.accountant import epsilon
from privacy.dp.terms import PrivacyTerms
from privacy.wire.messages import TrainTask
from server.config.renamed import refuse_old_keys
from shared_model.adapter.manifest import initial_vector
from shared_model.core.files import ORDINARY, write_text
from shared_model.network.spec import ModelSpec
from simulations.phantom.hospitals import STYLES, write_hospital
from simulations.reports.tables import write_json
from simulations.settings.composition import check_number, check_range, compose_values, mapping, path

_MODEL = ModelSpec(prior="video-small", shape=(16, 16, 16), adapter="lora", rank=1, precision="fp32")
_FULL = ModelSpec(prior="none", shape=(16, 16, 16), adapter="full", precision="fp32")


@dataclass(frozen=True, kw_only=True)
class AuditSettings:
    """``simulate audit``: the noise, and the sizes of the audited runs."""

    out: Path
    seed: int
    z: float
    steps: int
    sites: int
    patients: int
    trials: int
    canaries: int
    numbers: int
    threads: int

    def __post_init__(self) -> None:
        check_number("privacy.z", self.z, 0.1, 1000.0)
        for key, low, high in (
            ("seed", 0, 2**32 - 1),
            ("steps", 1, 1000),
            ("sites", 2, 64),
            ("patients", 4, 1000),
            ("trials", 4, 1_000_000),
            ("canaries", 40, 20_000),
            ("numbers", 100, 10_000_000),
            ("threads", 1, 256),
        ):
            check_range(key, getattr(self, key), low, high)

    def terms(self, steps: int, cohort: int) -> PrivacyTerms:
        """Terms of a run of full batches over all sites, with one colluder."""
        return PrivacyTerms(
            mode="shared",
            z=float(self.z),
            q=1.0,
            steps=steps,
            clip=0.1,
            delta=1e-5,
            cohort=cohort,
            sites=self.sites,
            survivors=self.sites,
            colluders=1,
        )


def audit_settings(overrides: Sequence[str]) -> AuditSettings:
    """Compose and check the settings."""
    refuse_old_keys(overrides, {"z": "privacy.z"})
    raw, _ = compose_values("audit", overrides)
    raw |= mapping(raw, "privacy")
    del raw["privacy"]
    return AuditSettings(**{**raw, "out": path(raw["out"], "out")})


def run_audit(settings: AuditSettings) -> str:
    """Run everything, write audit.json and audit.md to ``settings.out``; returns the table."""
    started = time.process_time()
    torch.set_num_threads(settings.threads)
    generator = np.random.default_rng(settings.seed)
    found: dict[str, Any] = {"settings": {**asdict(settings), "out": str(settings.out)}, "machine": platform.machine()}
    found["noise"] = _noise(settings)
    run_terms = settings.terms(settings.steps, settings.canaries)
    claimed = epsilon({(run_terms.z, 1.0): settings.steps}, run_terms.delta)
    audited = one_run_audit(run_terms, settings.canaries, settings.steps, generator)
    found["one_run"] = {"claimed_epsilon": claimed, **asdict(audited)}
    found["membership"] = _membership(settings)
    found["cpu_s"] = round(time.process_time() - started, 1)
    settings.out.mkdir(parents=True, exist_ok=True)
    write_json(settings.out / "audit.json", found)
    report = _table(found)
    write_text(settings.out / "audit.md", report + "\n", mode=ORDINARY)
    return report


def _noise(settings: AuditSettings) -> dict[str, Any]:
    terms = settings.terms(1, settings.patients)
    whole = noise_energy(null_round(terms, settings.sites, settings.numbers), terms, settings.sites)
    lacking = noise_energy(null_round(terms, settings.sites, settings.numbers, silent=1), terms, settings.sites)
    return {"all_sites": asdict(whole), "one_site_silent": asdict(lacking)}


def _membership(settings: AuditSettings) -> dict[str, Any]:
    terms = settings.terms(1, settings.patients)
    vectors = _gradients(settings, terms)
    plain = attack_knowing_others(vectors, terms, settings.trials, plain_release)
    shared = attack_knowing_others(vectors, terms, settings.trials)
    return {
        "numbers": vectors.shape[1],
        "plain_sum": asdict(plain),
        "shared": asdict(shared),
        "shared_bound": bound(settings.z),
        "inversion": _inversion(settings, terms),
    }


def _hospital(settings: AuditSettings) -> SiteConfig:
    # A phantom hospital keeps a fifth of its patients for validation.
    patients = -(-settings.patients * 5 // 4) + 1
    return write_hospital(settings.out / "hospital", STYLES["balanced_7f"], patients, settings.seed, shape=(16, 16, 16))


def _patients(settings: AuditSettings, spec: ModelSpec, terms: PrivacyTerms) -> Patients:
    asked = TrainTask(
        round=1,
        rounds=1,
        local_steps=1,
        batch_size=1,
        lr=1e-3,
        seed=settings.seed,
        stage="dose",
        privacy=terms.to_json(),
    )
    vector = initial_vector(spec)
    # LoRA's B starts at zero, where half of the gradient is zero too: a little way into training.
    vector = vector + 0.02 * np.random.default_rng(settings.seed).standard_normal(vector.size).astype(np.float32)
    return patients_of(_hospital(settings), spec, vector, asked, terms)


def _gradients(settings: AuditSettings, terms: PrivacyTerms) -> NDArray[np.float32]:
    patients = _patients(settings, _MODEL, terms)
    count = min(settings.patients, patients.count)
    return np.stack([patients.gradient(i).numpy() for i in range(count)])


def _inversion(settings: AuditSettings, terms: PrivacyTerms) -> dict[str, float]:
    """Mean patch of one patient's CT, read off the CT's patch embedding: |cosine| with the truth, plain and noised.

    The gradient of a layer's row over that of its bias is a weighted mean of the layer's inputs.
    """
    patients = _patients(settings, _FULL, terms)
    network = resident_model(_FULL).network
    layer = network.get_submodule("patch.ct")
    assert isinstance(layer, torch.nn.Conv3d)
    inputs: list[torch.Tensor] = []
    hook = layer.register_forward_hook(lambda _, seen, __: inputs.append(seen[0].detach()))
    gradient = patients.gradient(0).numpy()
    hook.remove()
    noise = np.random.default_rng(settings.seed).standard_normal(gradient.size) * terms.z * terms.clip
    side = layer.kernel_size[0]  # of a patch, in all directions
    patches = inputs[0].unflatten(2, (-1, side)).unflatten(4, (-1, side)).unflatten(6, (-1, side))
    truth = patches.mean((0, 2, 4, 6)).flatten().numpy()
    weight = [name for name, _ in network.named_parameters()].index("patch.ct.weight")
    ends = np.cumsum([parameter.numel() for parameter in patients.parameters])[:-1]

    def similarity(vector: NDArray[Any]) -> float:
        parts = np.split(vector, ends)
        rows, offsets = parts[weight].reshape(layer.out_channels, -1), parts[weight + 1]
        # Least squares over all rows: the direction that explains the rows from their biases.
        guess = offsets @ rows
        return float(abs(guess @ truth) / (np.linalg.norm(guess) * np.linalg.norm(truth)))

    return {"plain": similarity(gradient), "shared": similarity(gradient + noise)}


def _table(found: dict[str, Any]) -> str:
    noise, run, member = found["noise"], found["one_run"], found["membership"]
    rows = [
        ("noise energy, all sites", f"{noise['all_sites']['score']:.1f} standard errors from what is promised"),
        ("noise energy, one site silent", f"{noise['one_site_silent']['score']:.1f} standard errors"),
        ("one-run audit", f"epsilon at least {run['lower']:.2f}, claimed {run['claimed_epsilon']:.2f}"),
        ("membership, plain sum, all others known", _auc(member["plain_sum"])),
        ("membership, shared, all others known", f"{_auc(member['shared'])}, bound {member['shared_bound']:.3f}"),
        ("inversion of one patient, plain", f"|cos| {member['inversion']['plain']:.3f}"),
        ("inversion of one patient, shared", f"|cos| {member['inversion']['shared']:.3f}"),
    ]
    return "\n".join(["| audit | result |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows)])


def _auc(attack: dict[str, Any]) -> str:
    return f"AUC {attack['auc']:.3f} +- {attack['standard_error']:.3f} ({attack['trials']} trials)"
