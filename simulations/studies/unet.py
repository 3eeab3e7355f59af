"""The U-Net baseline: 1.3M parameters, mean absolute error inside the body, for a fixed number of CPU seconds.

Input volumes on the case's own grid, cropped to the body's box: CT, organs and targets, signed distances to targets,
the prescription map blurred in the slice (where coplanar beams spread it) and in space, depth below the skin.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from shared_model.channels.features import NAMES, highest_gy, physics_features
from shared_model.diffusion.modalities import mirror
from shared_model.network.device import autocast
from shared_model.network.seeding import seeded
from shared_model.patient.anatomy import OAR_NAMES
from shared_model.patient.case import Case, Volume

WIDTHS = (12, 32, 64, 96)
LEARNING_RATE = 2e-3
_STRIDE = 8
_HOTTEST = 1.17
# Physics volumes among the inputs, with the scale that brings them to about 1.
_PHYSICS = {
    "high_mm": 50.0, "high_or_middle_mm": 50.0, "target_mm": 50.0, "slice_blur": 0.5, "blur15": 1.0, "depth_mm": 50.0,
    "ct_khu": 1.0,
}  # fmt: skip
CHANNELS = len(_PHYSICS) + len(OAR_NAMES) + 2


def _block(inside: int, outside: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv3d(inside, outside, 3, padding=1, bias=False),
        nn.GroupNorm(4, outside),
        nn.LeakyReLU(0.1, inplace=True),
    )


class UNet(nn.Module):
    """Three halvings, skip connections, one output channel: dose over the highest prescription, (B, z, y, x)."""

    def __init__(self) -> None:
        super().__init__()
        w = WIDTHS
        self.first = _block(CHANNELS, w[0])
        self.down = nn.ModuleList(nn.Conv3d(w[i], w[i + 1], 2, stride=2) for i in range(3))
        self.encode = nn.ModuleList(nn.Sequential(_block(n, n), _block(n, n)) for n in w[1:])
        self.up = nn.ModuleList(nn.ConvTranspose3d(w[i + 1], w[i], 2, stride=2) for i in range(3))
        self.decode = nn.ModuleList(nn.Sequential(_block(2 * n, n), _block(n, n)) for n in w[:3])
        self.last = nn.Conv3d(w[0], 1, 1)

    def forward(self, x_bczyx: Tensor) -> Tensor:
        """(B, CHANNELS, z, y, x), sides multiples of 8 -> (B, z, y, x)."""
        levels = [self.first(x_bczyx)]
        for down, encode in zip(self.down, self.encode, strict=True):
            levels.append(encode(down(levels[-1])))
        y = levels.pop()
        for i in (2, 1, 0):
            y = self.decode[i](torch.cat([self.up[i](y), levels[i]], dim=1))
        out: Tensor = self.last(y)[:, 0]
        return out


@dataclass(frozen=True, kw_only=True)
class _Sample:
    """Inputs (C, z, y, x), dose over the prescription and body (z, y, x), all in the padded box."""

    inputs: Tensor
    ratio: Tensor
    body: Tensor


def _box(case: Case) -> tuple[slice, ...]:
    where = np.nonzero(case.body)
    return tuple(slice(int(w.min()), int(w.max()) + 1) for w in where)


def _pad(volume: Tensor) -> Tensor:
    """Zeros at the far ends, up to multiples of 8."""
    sides = [(-n) % _STRIDE for n in volume.shape[-3:]]
    return F.pad(volume, (0, sides[2], 0, sides[1], 0, sides[0]))


def _inputs(case: Case) -> Tensor:
    box, features = _box(case), physics_features(case)
    channels = []
    for name, scale in _PHYSICS.items():
        volume = np.zeros(case.grid.shape, dtype=np.float32)
        volume[case.body] = features[:, NAMES.index(name)].astype(np.float32) / scale
        channels.append(volume[box])
    empty = np.zeros(case.grid.shape, dtype=bool)
    channels += [case.structures.get(name, empty)[box].astype(np.float32) for name in OAR_NAMES]
    channels += [case.ptv_gy()[box] / np.float32(highest_gy(case)), case.body[box].astype(np.float32)]
    return _pad(torch.from_numpy(np.stack(channels)))


def _sample(case: Case) -> _Sample:
    box = _box(case)
    assert case.dose_gy is not None
    ratio = torch.from_numpy(case.dose_gy[box] / np.float32(highest_gy(case)))
    return _Sample(inputs=_inputs(case).half(), ratio=_pad(ratio), body=_pad(torch.from_numpy(case.body[box].copy())))


def train_unet(cases: Sequence[Case], cpu_s: int, seed: int) -> Callable[[Case], Volume]:
    """Train for ``cpu_s`` seconds of this process; returns case -> dose (z, y, x) Gy on its grid.

    The result depends on how many steps fit into the time, so no two machines give the same bits.
    """
    pairs = [(_sample(case), _sample(mirror(case))) for case in cases]
    random = np.random.RandomState(seed)
    with seeded(seed):
        model = UNet()
    average = {name: value.clone() for name, value in model.state_dict().items()}
    optimiser = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=1e-4)
    started, step = time.process_time(), 0
    while (spent := time.process_time() - started) < cpu_s:
        fade = 0.5 * (1 + math.cos(math.pi * spent / cpu_s)) + 0.01
        for group in optimiser.param_groups:
            group["lr"] = LEARNING_RATE * min(1.0, (step + 1) / 20) * fade
        sample = pairs[random.randint(len(pairs))][random.randint(2)]
        with autocast(torch.device("cpu"), "bf16"):
            predicted = model(sample.inputs.float()[None])[0]
        loss = (predicted.float() - sample.ratio)[sample.body].abs().mean()
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        step += 1
        for name, value in model.state_dict().items():
            average[name].lerp_(value, 0.02 if step > 50 else 1.0)
    model.load_state_dict(average)
    model.eval()
    return lambda case: _predict(model, case)


@torch.no_grad()
def _predict(model: UNet, case: Case) -> Volume:
    """Mean prediction of the case and of its mirror image, which is mirrored back."""
    box = _box(case)
    shape = case.body[box].shape
    seen = [model(_inputs(c)[None])[0, : shape[0], : shape[1], : shape[2]] for c in (case, mirror(case))]
    ratio = (seen[0] + seen[1].flip(-1)) / 2
    out = np.zeros(case.grid.shape, dtype=np.float32)
    out[box] = (ratio.clamp(0.0, _HOTTEST) * highest_gy(case)).numpy() * case.body[box]
    return out
