"""The paper's form: a transformer on latents of the body-sized grid, which takes the weights of a video model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from shared_model.backbone.prior import load_latents, load_prior
from shared_model.base.model import BASE_PREFIX
from shared_model.diffusion.latents import Latents
from shared_model.diffusion.modalities import Example, dose_gy, example, mirror
from shared_model.diffusion.objective import velocity_loss
from shared_model.diffusion.sampler import PatientNetwork, Sampling, sample_latents
from shared_model.forms.interface import Denoiser, Drawing, Form, Lesson
from shared_model.network.dit import Any2AnyDiT
from shared_model.network.seeding import noise_generator
from shared_model.network.spec import ModelSpec
from shared_model.patient.case import Case, Volume

# Parts of the residual form that no prior has. They must train, since frozen they would do nothing.
RESIDUAL_MODULES = ("estimate.", BASE_PREFIX)
EMBEDDING_MODULES = (*RESIDUAL_MODULES, "patch.", "head.", "role.", "table.", "table_out.", "norm_q.", "norm_k.")


def _is_embedding(name: str) -> bool:
    return any(name.startswith(m) or f".{m}" in name for m in EMBEDDING_MODULES)


def _is_low_rank(name: str) -> bool:
    return ".lora_" in name or name.startswith(RESIDUAL_MODULES)


# Adapter -> whether it trains a parameter of a stored name.
_TRAINS: Mapping[str, Callable[[str], bool]] = {
    "full": lambda name: True,
    "blocks": lambda name: name.startswith("blocks.") or _is_embedding(name),
    "lora+embeddings": lambda name: _is_low_rank(name) or _is_embedding(name),
    "lora": _is_low_rank,
    "ffa-lora": lambda name: ".lora_B." in name or name.startswith(RESIDUAL_MODULES),
    "base": lambda name: name.startswith(BASE_PREFIX),
}


class LatentForm(Form[Example]):
    """``full`` trains every weight. ``lora`` trains low-rank updates of the linear layers of the blocks,
    ``ffa-lora`` their second factors alone (shared_model/forms/volumes.py).

    ``lora+embeddings`` also trains patch embeddings, heads, role embedding and modulation tables. ``blocks`` trains the
    same embeddings and, in place of LoRA, every weight of the blocks. ``base`` trains only the base. The role embedding
    always trains with the embeddings: a video prior has none, so it starts at zero and would do nothing if frozen. The
    timestep's embedding and projection stay frozen in all but ``full``.
    """

    lora = ("to_q", "to_k", "to_v", "to_out.0", "ffn.net.0.proj", "ffn.net.2")
    # What the paper's stage C trains: also the modulation, through its projection.
    private_lora = (*lora, "time_proj")

    def __init__(self, spec: ModelSpec, shape: tuple[int, int, int] | None = None) -> None:
        """``shape``: the grid of encoded patients; one larger than ``spec.shape`` is drawn in tiles of that shape."""
        super().__init__(spec)
        self.shape = shape or spec.shape

    def network(self) -> nn.Module:
        """The transformer."""
        return load_prior(self.spec)

    def trains(self, name: str) -> bool:
        """See the class."""
        return _TRAINS[self.spec.adapter](name)

    def sides(self, case: Case, base: Volume | None) -> tuple[tuple[Case, Volume | None], ...]:
        """The case as it is, and mirrored. The base's features see no side, so its dose is mirrored with the case."""
        return (case, base), (mirror(case), None if base is None else np.ascontiguousarray(base[:, :, ::-1]))

    def encode(self, case: Case, base: Volume | None = None) -> Example:
        """Latents of each modality."""
        return example(case, self.shape, self._latents(), base)

    def has_dose(self, patient: Example) -> bool:
        """Whether there are latents of dose."""
        return "dose" in patient.latents

    def warmup(self, steps: int) -> int:
        """None: the transformer's rates were chosen without."""
        return 0

    def losses(
        self, network: nn.Module, patients: Sequence[Example], lesson: Lesson, generator: torch.Generator
    ) -> Iterator[Tensor]:
        """One part: the patients go through the network together."""
        assert isinstance(network, Any2AnyDiT)
        yield velocity_loss(network, patients, lesson.stage, generator, self.spec.precision, lesson.least_visible)

    def denoiser(self, network: nn.Module, patient: Example, target: str = "dose") -> Denoiser:
        """The network on the whole grid; its output is read as velocity."""
        assert isinstance(network, Any2AnyDiT)
        conditions = {m: v.float() for m, v in patient.latents.items() if m != target}
        estimate = patient.estimate.float() if target == "dose" and patient.estimate is not None else None
        return PatientNetwork(network, conditions, target, Sampling(precision=self.spec.precision), estimate)

    def noise(self, patient: Example, candidates: int, generator: torch.Generator, target: str = "dose") -> Tensor:
        """White noise in the shape of latents."""
        some = next(iter(patient.latents.values()))
        return torch.randn((candidates, *some.shape), generator=generator)

    def clean(self, patient: Example, target: str = "dose") -> Tensor:
        """The target's latents."""
        return patient.latents[target].float()

    def decode(self, x0: Tensor) -> Tensor:
        """Volumes (k, z, y, x) of the training grid."""
        return self._latents().decode(x0)

    def in_gy(self, volumes: Tensor, patient: Example, case: Case, base: Volume | None) -> Tensor:
        """Brought back to the case's grid, with the base added."""
        return dose_gy(volumes, case, patient.grid, self._latents(), base)

    def draw(
        self, network: nn.Module, patient: Example, how: Drawing, *, candidates: int, seed: int, target: str = "dose"
    ) -> Tensor:
        """Volumes (k, z, y, x) of ``target``. ``how.flips`` is of no effect: an Example cannot be mirrored."""
        assert isinstance(network, Any2AnyDiT)
        conditions = {m: v for m, v in patient.latents.items() if m != target}
        estimate = patient.estimate if target == "dose" else None
        key = ("sample", patient.case_id) if target == "dose" else ("sample", patient.case_id, target)
        noise = self.noise(patient, candidates, noise_generator(seed, *key), target)
        latents = self._latents()
        window = latents.cells(self.spec.shape)
        sampling = Sampling(
            steps=how.steps,
            precision=self.spec.precision,
            batch=how.batch,
            window=window,
            overlap=max(1, min(window) // 4),
        )
        return latents.decode(sample_latents(network, conditions, target, noise, sampling, estimate))

    def _latents(self) -> Latents:
        return load_latents(self.spec if self.shape == self.spec.shape else replace(self.spec, shape=self.shape))
