"""One patient with a predicted dose, as the trade-off network sees them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt
from torch import Tensor

from shared_model.channels.organs import as_inputs
from shared_model.channels.volumes import PatientChannels, patient_channels
from shared_model.core.errors import InputError
from shared_model.network.pyramid import STRIDE, USUAL_MM
from shared_model.patient.anatomy import OAR_NAMES
from shared_model.patient.case import Case
from shared_model.tradeoff.network import SEEN, TradeoffNetwork
from shared_model.tradeoff.points import LEAST_VOXELS, SURROUNDINGS, SURROUNDINGS_MM, TARGETS, PatientPoints

# Changes of points and of dose enter and leave the network in units of this.
CHANGE_GY = 5.0


class TradeoffPatient:
    """``dose``, ``reference`` and all else: on the body's box filled up to multiples of 8; dose of 1 is ``unit_gy``.

    ``mirrored``: the patient with left and right exchanged, for training.
    """

    def __init__(self, channels: PatientChannels, dose_gy: NDArray[np.floating], *, mirrored: bool = False) -> None:
        """``dose_gy``: predicted, (z, y, x) on the channels' box. InputError where no structure has enough voxels."""
        self._box = channels.stack.shape[:3]
        self.unit_gy, self._slices = channels.unit_gy, channels.slices
        layout = channels.layout
        names = (*SEEN, "dose")
        places = [layout.index(name) for name in names]
        # Copied as it is, in 16 bits, and only what is needed made 32: the stack also holds each beam.
        stack = torch.from_numpy(np.array(channels.stack))[..., places].float()
        dose = torch.from_numpy(np.asarray(dose_gy, dtype=np.float32)) / self.unit_gy
        if mirrored:
            swapped = layout.mirrored()
            stack = stack.flip(2)[..., [places.index(swapped[place]) for place in places]]
            dose = dose.flip(2)
        at = {name: stack[..., n] for n, name in enumerate(names)}
        body = at["body"] > 0.5
        self.body = _filled(body.float())
        self.dose = _filled(dose) * self.body
        self.reference = _filled(at["dose"]) if "dose" in channels.present else None
        logs = [math.log(mm / usual) for mm, usual in zip(channels.spacing_mm, USUAL_MM, strict=True)]
        own = torch.stack([self.dose, *(value * self.body for value in logs)], dim=-1)
        seen = torch.cat([_filled_last(stack[..., :-1]), own], dim=-1)
        self._seen = seen.permute(3, 0, 1, 2)[None]  # channels last, as the network wants them
        structures = {name: at[f"is_{name}"] > 0.5 for name in (*TARGETS, *OAR_NAMES)}
        structures[SURROUNDINGS] = _around([structures[name] for name in TARGETS], body, channels.spacing_mm)
        voxels = {name: _filled(mask.float()).flatten().nonzero()[:, 0] for name, mask in structures.items()}
        self.points = PatientPoints(voxels, self.dose.shape)
        if not self.points.points:
            raise InputError(f"case {channels.case_id}: no target or organ of {LEAST_VOXELS} voxels: nothing to trade")
        self.now = self.points.values(self.dose[None])[0]

    @property
    def apart(self) -> Tensor:
        """By how much the reference's points differ from the predicted dose's, (p,)."""
        assert self.reference is not None
        return self.points.values(self.reference[None])[0] - self.now

    def see(self, network: TradeoffNetwork) -> Tensor:
        """What does not depend on the wanted changes."""
        return network.see(self._seen)

    def moved(self, network: TradeoffNetwork, seen: Tensor, change_np: Tensor, given_np: Tensor) -> Tensor:
        """Doses (n, z, y, x) moved by ``change_np`` (n, p); where ``given_np`` is 0 the network decides."""
        maps = self.points.painted(change_np * (self.unit_gy / CHANGE_GY), given_np)
        doses = self.dose.expand(len(maps), 1, *self.dose.shape)
        delta = network(seen, maps, doses)[:, 0] * (CHANGE_GY / self.unit_gy)
        moved: Tensor = ((self.dose + delta) * self.body).clamp_min(0.0)
        return moved

    def mover(self, network: TradeoffNetwork) -> Callable[[Tensor], Tensor]:
        """From wanted changes of all points (n, p) to doses (n, z, y, x): asking for no change changes nothing.

        What the network answers to no change is taken off: it is not what was asked for, and costs points.
        """
        with torch.no_grad():
            seen = self.see(network)
            none = torch.zeros(1, len(self.now))
            still = self.moved(network, seen, none, torch.ones_like(none)) - self.dose

        def moved(change_np: Tensor) -> Tensor:
            dose = self.moved(network, seen, change_np, torch.ones_like(change_np)) - still
            return dose.clamp_min(0.0)

        return moved

    def in_gy(self, dose_nzyx: Tensor, shape: Sequence[int]) -> Tensor:
        """Doses in Gy on the case's grid of ``shape``, (n, z, y, x); 0 outside the box."""
        z, y, x = (slice(0, n) for n in self._box)
        out = dose_nzyx.new_zeros((len(dose_nzyx), *shape))
        out[(slice(None), *self._slices)] = dose_nzyx[:, z, y, x] * self.unit_gy
        return out


def tradeoff_patient(case: Case, dose_gy: NDArray[np.floating], body_site: str) -> TradeoffPatient:
    """The patient of a case with a predicted dose (z, y, x) Gy on its grid. InputError for a case without targets."""
    if not case.targets:
        raise InputError(f"case {case.case_id}: no target, so there is nothing to trade")
    channels = patient_channels(as_inputs(case, body_site))
    return TradeoffPatient(channels, np.asarray(dose_gy)[channels.slices])


def _filled(volume: Tensor) -> Tensor:
    """Filled up with zeros at the ends, to multiples of STRIDE."""
    after = [-n % STRIDE for n in volume.shape]
    return F.pad(volume, (0, after[2], 0, after[1], 0, after[0]))


def _filled_last(volumes: Tensor) -> Tensor:
    """The same of (z, y, x, channels)."""
    after = [-n % STRIDE for n in volumes.shape[:3]]
    return F.pad(volumes, (0, 0, 0, after[2], 0, after[1], 0, after[0]))


def _around(targets: Sequence[Tensor], body: Tensor, spacing_mm: Sequence[float]) -> Tensor:
    inside = torch.stack(list(targets)).any(0)
    if not inside.any():
        return torch.zeros_like(body)
    distance = torch.from_numpy(distance_transform_edt(~inside.numpy(), sampling=spacing_mm))
    return body & ~inside & (distance <= SURROUNDINGS_MM)
