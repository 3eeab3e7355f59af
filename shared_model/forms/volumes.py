"""The U-shaped network's form: a patient's channels on their own grid, cropped to the body."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from shared_model.backbone.pyramid_prior import pyramid_network
from shared_model.channels.layout import SCALE
from shared_model.channels.organs import as_inputs
from shared_model.channels.volumes import PatientChannels, patient_channels
from shared_model.forms.interface import Denoiser, Drawing, Form, Lesson
from shared_model.forms.volume_sampling import SHIFT, VolumeDenoiser, body_in_frame, dose_of, patient_noise, samples
from shared_model.network.pyramid import PyramidDiT
from shared_model.network.seeding import noise_generator
from shared_model.patient.case import Case, Volume
from shared_model.training.recipe import Recipe
from shared_model.training.step import teach
from shared_model.training.views import View, seen_from

# Parts that a prior of other modalities says little about: what reads the patient, and what writes the answer.
_ENDS = ("stems.", "fuse0.", "fuse1.", "enter.", "state.", "mix.", "head.", "role.", "asked.", "there.", "spacing.")


def _is_told(name: str) -> bool:
    """Scales and shifts, by which noise time, role and voxel size speak, and norms."""
    return ".film." in name or "norm" in name or name.endswith(".bias") or ".table." in name


# Adapter -> whether it trains a parameter of a stored name.
_TRAINS: Mapping[str, Callable[[str], bool]] = {
    "full": lambda name: True,
    "lora": lambda name: ".lora_" in name,
    "ffa-lora": lambda name: ".lora_B." in name,
    "lora+embeddings": lambda name: ".lora_" in name or name.startswith(_ENDS) or _is_told(name),
    "bias": lambda name: name.endswith(".bias") and "lora" not in name,
    "film": _is_told,
    "head": lambda name: name.startswith("head.dose."),
}


class VolumeForm(Form[PatientChannels]):
    """``full`` trains every weight. ``lora`` trains low-rank updates of the blocks' linear layers and convolutions,
    ``ffa-lora`` their second factors alone, so that the mean of the sites' updates is the mean of what they do (Sun et
    al. 2024, arXiv:2403.12313).

    ``lora+embeddings`` also trains stems, heads, embeddings, and what scales and shifts. ``bias`` trains the biases
    alone, ``film`` also the scales and shifts and the norms, ``head`` only the last layer of dose.
    """

    lora = (
        "to_q", "to_k", "to_v", "to_out.0", "ffn.net.0.proj", "ffn.net.2", "core.modulation", "conv1", "conv2",
    )  # fmt: skip
    private_lora = lora
    mean_in_one_step = True
    one_by_one = True
    shift = SHIFT

    def network(self) -> nn.Module:
        """The network with the prior's weights."""
        return pyramid_network(self.spec)

    def trains(self, name: str) -> bool:
        """See the class."""
        return _TRAINS[self.spec.adapter](name)

    def sides(self, case: Case, base: Volume | None) -> tuple[tuple[Case, Volume | None], ...]:
        """The case alone: each step draws a view of it, mirrored or turned."""
        return ((case, base),)

    def encode(self, case: Case, base: Volume | None = None) -> PatientChannels:
        """Channels on the body's box, with the organs of the model's site of the body."""
        return patient_channels(as_inputs(case, self.spec.body_site))

    def has_dose(self, patient: PatientChannels) -> bool:
        """Whether dose is there."""
        return "dose" in patient.present

    def warmup(self, steps: int) -> int:
        """A fifth of the round: AdamW's first steps have the size of the rate whatever the gradient."""
        return max(1, steps // 5)

    def losses(
        self, network: nn.Module, patients: Sequence[PatientChannels], lesson: Lesson, generator: torch.Generator
    ) -> Iterator[Tensor]:
        """One part a patient, since a batch of the network is one patient's.

        Stage ``any2any`` asks for any modality each time; stage ``dose`` as often as the recipe of `simulate train`,
        and with adapter ``head``, which no other target reaches, never.
        """
        assert isinstance(network, PyramidDiT)
        recipe = Recipe(least_visible=lesson.least_visible)
        if lesson.stage == "any2any":
            recipe = replace(recipe, any_share=1.0)
        elif self.spec.adapter == "head":
            recipe = replace(recipe, any_share=0.0)
        for patient in patients:
            yield teach(network, patient, recipe, generator, self.spec.precision).loss / len(patients)

    def denoiser(self, network: nn.Module, patient: PatientChannels, target: str = "dose") -> Denoiser:
        """The network for the patient as they are."""
        assert isinstance(network, PyramidDiT)
        return VolumeDenoiser(network, patient, target, precision=self.spec.precision)

    def noise(
        self, patient: PatientChannels, candidates: int, generator: torch.Generator, target: str = "dose"
    ) -> Tensor:
        """Noise in broad strokes and fine ones (training/step.py)."""
        return patient_noise(patient, candidates, generator, target)

    def clean(self, patient: PatientChannels, target: str = "dose") -> Tensor:
        """The target's channels; dose is 0 outside the body."""
        mean, unit = SCALE[target]
        stack = seen_from(patient, View()).stack[..., patient.layout.target(target)].permute(3, 0, 1, 2)
        x0 = (stack - mean) / unit
        return x0 * body_in_frame(patient) if target == "dose" else x0

    def decode(self, x0: Tensor) -> Tensor:
        """As they are: the network works on volumes."""
        return x0

    def in_gy(self, volumes: Tensor, patient: PatientChannels, case: Case, base: Volume | None) -> Tensor:
        """The patient's box on the case's grid."""
        out = torch.zeros((len(volumes), *case.grid.shape))
        z, y, x = patient.slices
        out[:, z, y, x] = dose_of(volumes, patient)
        return out

    def draw(
        self,
        network: nn.Module,
        patient: PatientChannels,
        how: Drawing,
        *,
        candidates: int,
        seed: int,
        target: str = "dose",
    ) -> Tensor:
        """Channels of ``target`` in the frame of the patient's box."""
        assert isinstance(network, PyramidDiT)
        noise = patient_noise(patient, candidates, noise_generator(seed, "sample", patient.case_id, target), target)
        return samples(
            network,
            patient,
            noise,
            target,
            steps=how.steps,
            batch=how.batch,
            flips=how.flips,
            precision=self.spec.precision,
        )
