"""What every form of the model offers the system: a network, encoded patients, losses and samples.

There are two forms. ``pyramid`` is the U-shaped network on a patient's own grid (network/pyramid.py). ``transformer``
is the paper's form on latents, which takes the weights of a video model (network/dit.py). Training, prediction and
alignment ask a form and know neither network.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pkgutil import resolve_name
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from shared_model.network.schedule import FLOW_SHIFT, sample_ddim
from shared_model.network.spec import ModelSpec
from shared_model.patient.case import Case, Volume

# What a form makes of a patient.
E = TypeVar("E")
# The velocity (k, C, z, y, x) at states of that shape and noise times (k,).
Denoiser = Callable[[Tensor, Tensor], Tensor]

_FORMS: Mapping[str, str] = {
    "pyramid": "shared_model.forms.volumes:VolumeForm",
    "transformer": "shared_model.forms.latents:LatentForm",
}


@dataclass(frozen=True, kw_only=True)
class Lesson:
    """What a step of training asks: ``stage`` (diffusion/objective.py) and the least share of visible conditions."""

    stage: str = "dose"
    least_visible: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """How doses are drawn. ``steps``: DDIM steps; 1 gives the mean. ``batch``: candidates that run at once.

    ``flips``: each dose is averaged with the one of the patient's mirror image. This doubles the time.
    """

    steps: int = 1
    batch: int = 8
    flips: bool = False


class Form(ABC, Generic[E]):
    """The form of one model specification."""

    # Ends of the paths of modules that low-rank updates are added to: those that travel, and those that stay.
    lora: tuple[str, ...]
    private_lora: tuple[str, ...]
    # Whether one step from pure noise gives the same dose for any noise: the mean.
    mean_in_one_step: bool = False
    # Whether a batch goes through the network patient after patient, each a part of the loss.
    one_by_one: bool = False
    # Shift of the sampler's noise times.
    shift: float = FLOW_SHIFT

    def __init__(self, spec: ModelSpec) -> None:
        self.spec = spec

    @abstractmethod
    def network(self) -> nn.Module:
        """A new network with the prior's weights."""

    @abstractmethod
    def trains(self, name: str) -> bool:
        """Whether the adapter of the specification trains the parameter of this stored name."""

    @abstractmethod
    def sides(self, case: Case, base: Volume | None) -> tuple[tuple[Case, Volume | None], ...]:
        """The case with its base dose, once for each view of the patient that is encoded apart, such as a mirror."""

    @abstractmethod
    def encode(self, case: Case, base: Volume | None = None) -> E:
        """The patient as the network sees them. ``base``: their base dose (z, y, x) Gy, if the model has a base."""

    @abstractmethod
    def has_dose(self, patient: E) -> bool:
        """Whether the patient can teach dose."""

    @abstractmethod
    def warmup(self, steps: int) -> int:
        """Over how many of a round's local steps the rate rises, after the optimiser's start."""

    @abstractmethod
    def losses(
        self, network: nn.Module, patients: Sequence[E], lesson: Lesson, generator: torch.Generator
    ) -> Iterator[Tensor]:
        """Parts () whose sum is the loss of one batch. A caller may go backward through each before the next.

        Where ``one_by_one``, the parts are the patients', in their order, each of which draws only for itself.
        """

    @abstractmethod
    def denoiser(self, network: nn.Module, patient: E, target: str = "dose") -> Denoiser:
        """The network for one patient. What their conditions become is computed once.

        Make and call it inside the same ``torch.no_grad``, or both outside: gradients pass through what it keeps.
        """

    @abstractmethod
    def noise(self, patient: E, candidates: int, generator: torch.Generator, target: str = "dose") -> Tensor:
        """Noise of unit variance, (candidates, C, z, y, x), in the shape of the patient's target."""

    @abstractmethod
    def clean(self, patient: E, target: str = "dose") -> Tensor:
        """The target itself in the network's scale, (C, z, y, x) float32."""

    @abstractmethod
    def decode(self, x0: Tensor) -> Tensor:
        """Clean samples (k, C, z, y, x) as volumes (k, ...) in the network's scale."""

    @abstractmethod
    def in_gy(self, volumes: Tensor, patient: E, case: Case, base: Volume | None) -> Tensor:
        """Volumes of dose as ``decode`` gives them, in Gy on the case's grid, (k, z, y, x); 0 outside the body."""

    @abstractmethod
    def draw(
        self, network: nn.Module, patient: E, how: Drawing, *, candidates: int, seed: int, target: str = "dose"
    ) -> Tensor:
        """Volumes (k, ...) of ``target`` as ``decode`` gives them, from all other modalities of the patient.

        The noise depends only on seed and patient: asking for four candidates gives as its first the same one as asking
        for one.
        """

    def sampled(self, network: Denoiser, noise: Tensor, steps: int) -> Tensor:
        """DDIM from ``noise`` (k, C, z, y, x) to clean samples, on the form's noise times."""
        return sample_ddim(network, noise, steps, shift=self.shift)


def form_of(spec: ModelSpec) -> Form[Any]:
    """The form that a specification asks for."""
    made: Form[Any] = resolve_name(_FORMS[spec.network])(spec)
    return made
