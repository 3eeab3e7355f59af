"""The model of a federation: the network, and beside it the base's weights."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

from shared_model.base.interface import base_of
from shared_model.network.spec import ModelSpec
from shared_model.patient.case import Case, Volume

# The stored names of the base's parameters begin with this. The word is that of an earlier base. It stays, because
# adapters of the phantom base have it in their files and in their manifests' hashes.
BASE_PREFIX = "voxel."


class DoseModel(nn.Module):
    """``network``: the form's (shared_model/forms). ``base``: the part of the base that trains, or None."""

    def __init__(self, network: nn.Module, base: nn.Module | None = None) -> None:
        super().__init__()
        self.network, self.base = network, base

    def stored_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Pairs (name, parameter), with the names and the order of vectors and adapter files."""
        yield from self.network.named_parameters()
        for name, parameter in self.base.named_parameters() if self.base is not None else ():
            yield f"{BASE_PREFIX}{name}", parameter


def base_weights(model: DoseModel) -> bytes:
    """The base's weights as float32 bytes. Empty if the model has no base."""
    parameters = [] if model.base is None else list(model.base.parameters())
    return b"".join(p.detach().float().cpu().numpy().tobytes() for p in parameters)


def base_gy(case: Case, spec: ModelSpec, model: DoseModel) -> Volume | None:
    """The base dose of one case, (z, y, x) Gy. None for a model without a base."""
    if not spec.has_base:
        return None
    base = base_of(spec)
    return base.dose(case, base.features(case), base_weights(model))
