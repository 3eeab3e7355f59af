"""Sample one modality from any conditions: DDIM steps, batched candidates, tiles for grids above the training ROI.

The caller gives the noise, so the result depends only on the seed that drew it. It depends neither on how many
candidates run at once nor on whether the conditions' keys and values are kept.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from torch import Tensor

from shared_model.diffusion.tiling import Triple, Window, blend, tiles
from shared_model.network.device import autocast, device_of, moved
from shared_model.network.dit import Any2AnyDiT
from shared_model.network.schedule import sample_ddim


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How to sample. ``steps``: DDIM steps. ``precision``: bf16 or fp32. ``batch``: candidates that run at once.

    ``window`` (z, y, x) in latent cells: a larger grid is cut into tiles of this size, which overlap by at least
    ``overlap`` cells and are blended at every step. None never cuts. ``keep``: keep the conditions' keys and values if
    condition-causal attention makes that exact.
    """

    steps: int = 1
    precision: str = "bf16"
    batch: int = 8
    window: Triple | None = None
    overlap: int = 2
    keep: bool = True


@torch.no_grad()
def sample_latents(
    model: Any2AnyDiT,
    conditions: Mapping[str, Tensor],
    target: str,
    noise: Tensor,
    how: Sampling,
    estimate: Tensor | None = None,
) -> Tensor:
    """Sample latents (K, C, z, y, x) of ``target`` from ``noise`` of that shape, one sample for each of K candidates.

    ``conditions``: modality -> latents (C, z, y, x) of one patient. ``estimate``: latents of an estimate of the dose.
    """
    z, y, x = noise.shape[2:]
    parts = tiles((z, y, x), how.window or (z, y, x), how.overlap)
    networks = [
        PatientNetwork(
            model,
            {m: v[(..., *part)] for m, v in conditions.items()},
            target,
            how,
            None if estimate is None else estimate[(..., *part)],
        )
        for part in parts
    ]

    def network(x_t: Tensor, t_b: Tensor) -> Tensor:
        def tile(number: int, part: Window) -> Tensor:
            return networks[number](x_t[(..., *part)], t_b)

        return blend(tile, (z, y, x), parts, how.overlap)

    predicts = model.switches.predicts
    return torch.cat([sample_ddim(network, some, how.steps, predicts) for some in noise.split(how.batch)])


class PatientNetwork:
    """Gives the network's output for the candidates of one patient on one tile. Keeps what does not change.

    Make and call it inside the same ``torch.no_grad``, or make and call it outside of any, because gradients pass
    through what it keeps.
    """

    def __init__(
        self,
        model: Any2AnyDiT,
        conditions: Mapping[str, Tensor],
        target: str,
        how: Sampling,
        estimate: Tensor | None = None,
    ) -> None:
        self._model, self._target, self._precision = model, target, how.precision
        self._device = device_of(model)
        self._conditions = {m: moved(v[None], self._device) for m, v in conditions.items()}
        self._estimate = None if estimate is None else moved(estimate, self._device)
        self._memory = None
        if how.keep and model.switches.attention == "condition-causal":
            with self._autocast():
                self._memory = model.remember(self._conditions)

    def __call__(self, x_t: Tensor, t_b: Tensor) -> Tensor:
        """The output (k, C, z, y, x) for k candidates ``x_t`` at their noise times (k,), where ``x_t`` lies."""
        candidates = x_t.shape[0]
        conditions = {m: v.expand(candidates, -1, -1, -1, -1) for m, v in self._conditions.items()}
        estimate = None if self._estimate is None else self._estimate.expand(candidates, -1, -1, -1, -1)
        with self._autocast():
            out: Tensor = self._model(
                conditions, self._target, moved(x_t, self._device), moved(t_b, self._device), self._memory, estimate
            )
        return out.to(x_t)

    def _autocast(self) -> AbstractContextManager[None]:
        return autocast(self._device, self._precision)
