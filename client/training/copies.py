"""Several GPUs of one hospital: a step's patients are shared out among copies of the network.

One process issues the work of all devices, since each computes by itself and is waited for at the end of the step
alone. Chance is drawn patient after patient as on one device, so the update is that of one device with the same
patients, but for the order of the sums. A step of one patient, which is the default of the U-shaped network, keeps one
device busy.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from shared_model.forms.interface import Form, Lesson


class Copies:
    """A network and its copies on further devices. Only the network itself is stepped."""

    def __init__(self, network: nn.Module, others: Sequence[nn.Module]) -> None:
        self._network, self._others = network, others

    @classmethod
    def on(cls, devices: Sequence[torch.device], network: nn.Module) -> Copies | None:
        """Copies on all devices but the first, where ``network`` lies; None if there is but one."""
        others = [copy.deepcopy(network).to(device) for device in devices[1:]]
        return cls(network, others) if others else None

    def losses(
        self, form: Form[Any], patients: Sequence[Any], lesson: Lesson, generator: torch.Generator
    ) -> Iterator[Tensor]:
        """As ``form.losses``, patient after patient, on one device after the other.

        Before the first part the copies take the network's weights; after the last, if the caller went backward through
        each, the network has the sum of the gradients. A parameter that no patient used stays without one.
        """
        networks = [self._network, *self._others]
        for other in self._others:
            _follow(other, self._network)
        for place, patient in enumerate(patients):
            network = networks[place % len(networks)]
            for part in form.losses(network, [patient], lesson, generator):
                yield part / len(patients)
        for other in self._others:
            _give(other, self._network)


@torch.no_grad()
def _follow(other: nn.Module, network: nn.Module) -> None:
    for there, here in zip(other.parameters(), network.parameters(), strict=True):
        there.grad = None
        there.copy_(here, non_blocking=True)


@torch.no_grad()
def _give(other: nn.Module, network: nn.Module) -> None:
    for there, here in zip(other.parameters(), network.parameters(), strict=True):
        if there.grad is not None:
            moved = there.grad.to(here.device)
            here.grad = moved if here.grad is None else here.grad + moved
