"""Procedural video for priors: moving, deforming, occluding shapes, rendered as seven aligned passes.

A clip is T frames of H x W pixels; time is the grid's z axis. Nothing in it is anatomy or dose: a large translucent
shape drifts and changes its outline; smaller shapes live for some frames, move, turn, grow and hide one another; some
of them glow. Lamps around the scene send light through each frame towards what glows; light stays within its frame.
The passes stand in the slots of the seven modalities, each in the slot whose kind it shares (a mask for a mask):

    dose   light: what the lamps leave behind in the large shape, dimmed with depth
    ct     shading: grey levels of everything seen, with a texture
    ptv    glow: the level of what glows, the brightest wins
    oar    labels: an integer for each shape seen, the nearest wins
    body   outline of the large shape
    beam   lit: how many lamps' rays pass
    angle  lines from the lamps to the middle of what glows

The control shows the same clips with their frames shuffled: each frame is as before, motion is gone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from shared_model.diffusion.modalities import HAAR, Example
from shared_model.patient.geometry import Grid

# Part of every prior's record: change it whenever the same seed gives another clip.
GENERATOR_VERSION = 1
# (mean, standard deviation) of each pass over 200 clips, as round figures.
PASSES: dict[str, tuple[float, float]] = {
    "dose": (0.1, 0.22),
    "ct": (-0.5, 0.6),
    "ptv": (0.05, 0.2),
    "oar": (0.2, 1.1),
    "body": (0.4, 0.47),
    "beam": (0.2, 0.32),
    "angle": (0.2, 0.32),
}
SHAPES, GLOWING = 11, 3
DIMMING = 0.6  # per half width of a frame


def clip_examples(index: int, seed: int, shape: tuple[int, int, int], shuffled: bool) -> tuple[Example, Example]:
    """Clip ``index`` of ``seed`` and its mirror image, encoded; ``shuffled``: the control's order of frames.

    ``shape`` (T, H, W): an even number of frames, H and W multiples of 4. The same arguments give the same bits.
    """
    rng = np.random.default_rng([GENERATOR_VERSION, seed, index])
    passes = render_clip(rng, shape).passes
    if shuffled:
        order = shuffled_frames(index, seed, shape[0])
        passes = {name: volume[order] for name, volume in passes.items()}
    return _encode(index, passes, shape), _encode(index, {n: v.flip(2) for n, v in passes.items()}, shape)


def _encode(index: int, passes: dict[str, Tensor], shape: tuple[int, int, int]) -> Example:
    latents = {}
    for name, volume in passes.items():
        offset, unit = PASSES[name]
        latents[name] = HAAR.encode(((volume - offset) / unit)[None])[0].to(torch.bfloat16)
    grid = Grid(shape=shape, spacing_mm=(1.0, 1.0, 1.0), origin_mm=(0.0, 0.0, 0.0))
    return Example(case_id=f"clip_{index}", grid=grid, latents=latents)


def shuffled_frames(index: int, seed: int, frames: int) -> Tensor:
    """The control's order of a clip's frames, (T,)."""
    return torch.from_numpy(np.random.default_rng([GENERATOR_VERSION, seed, index, 1]).permutation(frames))


@dataclass(frozen=True, kw_only=True)
class Clip:
    """``passes``: seven volumes (T, H, W), float32. ``lamps_rad``: directions of the lamps, as gantry angles count."""

    passes: dict[str, Tensor]
    lamps_rad: tuple[float, ...]


def render_clip(rng: np.random.Generator, shape: tuple[int, int, int]) -> Clip:
    """One random scene."""
    frames, height, width = shape
    t = torch.linspace(-1, 1, frames)
    yx = torch.stack(torch.meshgrid(_pixels(height), _pixels(width), indexing="ij"))
    body = _outline(rng, t, yx, rng.uniform(-0.15, 0.15, 2), rng.uniform(0.55, 0.85, 2), 0.1, 0.2)
    texture = _texture(rng, shape)
    shading = -1 + body * (1 + rng.uniform(0.0, 0.5) + 0.15 * texture)
    labels, glow = torch.zeros(shape), torch.zeros(shape)
    glows = int(rng.integers(1, GLOWING + 1))
    levels = np.sort(rng.uniform(0.6, 1.0, glows))
    levels /= levels[-1]
    where = rng.uniform(-0.35, 0.35, 2)
    for number in range(SHAPES):
        is_glowing = number >= SHAPES - glows
        # What glows lies together, the rest anywhere.
        centre = where + rng.normal(0, 0.12, 2) if is_glowing else rng.uniform(-0.55, 0.55, 2)
        low, high = (0.15, 0.42) if is_glowing else (0.05, 0.22)
        mask = _outline(rng, t, yx, centre, rng.uniform(low, high, 2), 0.3, 0.35) * body
        mask = mask * _life(rng, t, 0.4 if is_glowing else 0.15)
        if is_glowing:
            glow = torch.maximum(glow, mask * float(levels[number - SHAPES + glows]))
        else:
            labels = torch.where(mask > 0.5, float(number + 1), labels)
        shading = shading * (1 - mask) + mask * (rng.uniform(-1, 1.2) + 0.1 * texture)
    labels = labels * (glow < 0.3)
    lamps = _lamp_angles(rng)
    light, lit, lines = _lamps(lamps, body, glow)
    passes = {"dose": light, "ct": shading, "ptv": glow, "oar": labels, "body": body, "beam": lit, "angle": lines}
    return Clip(passes=passes, lamps_rad=tuple(lamps.tolist()))


def _pixels(count: int) -> Tensor:
    return (torch.arange(count) + 0.5) * (2 / count) - 1


def _outline(
    rng: np.random.Generator,
    t: Tensor,
    yx: Tensor,
    centre: np.ndarray[tuple[int], np.dtype[np.float64]],
    radii: np.ndarray[tuple[int], np.dtype[np.float64]],
    drift: float,
    wobble: float,
) -> Tensor:
    """(T, H, W) soft mask of a closed curve that moves, turns, grows and changes its harmonics over time."""
    path = [
        c + v * t + a * torch.sin(math.pi * f * t + p)
        for c, v, a, f, p in zip(
            centre,
            rng.normal(0, drift, 2),
            rng.normal(0, drift / 2, 2),
            rng.uniform(0.5, 2, 2),
            rng.uniform(0, 2 * math.pi, 2),
            strict=True,
        )
    ]
    size = 1 + wobble * torch.sin(math.pi * rng.uniform(0.3, 1.5) * t + rng.uniform(0, 2 * math.pi))
    dy = (yx[0] - path[0][:, None, None]) / (radii[0] * size)[:, None, None]
    dx = (yx[1] - path[1][:, None, None]) / (radii[1] * size)[:, None, None]
    turned = torch.atan2(dy, dx) + (rng.uniform(0, 2 * math.pi) + rng.normal(0, 0.6) * t)[:, None, None]
    edge = torch.ones_like(turned)
    for n in range(2, 5):
        strength = wobble * rng.normal(0, 0.6) / n
        phase = rng.uniform(0, 2 * math.pi) + rng.normal(0, 1.0) * t
        edge = edge + strength * torch.cos(n * turned + phase[:, None, None])
    inside = edge - torch.hypot(dy, dx)
    sharpness = float(min(radii)) * yx.shape[-1]
    return torch.sigmoid(2 * sharpness * inside)


def _life(rng: np.random.Generator, t: Tensor, least: float) -> Tensor:
    """(T, 1, 1) from 0 to 1: the frames in which a shape is there, with an edge of about a frame."""
    middle, half = rng.uniform(-0.8, 0.8), rng.uniform(least, 1.0)
    return torch.sigmoid((half - (t - middle).abs()) * 2 * len(t))[:, None, None]


def _texture(rng: np.random.Generator, shape: tuple[int, int, int]) -> Tensor:
    """(T, H, W) smooth noise of about unit variance that lasts over frames."""
    coarse = torch.from_numpy(rng.normal(size=(1, 1, *(max(2, n // 4) for n in shape)))).float()
    return F.interpolate(coarse, size=shape, mode="trilinear", align_corners=False)[0, 0] * 1.5


def _lamp_angles(rng: np.random.Generator) -> Tensor:
    count = int(rng.choice([5, 7, 9]))
    return 2 * math.pi * torch.arange(count) / count + float(rng.choice([0.0, rng.uniform(0, 2 * math.pi)]))


def _lamps(angles: Tensor, body: Tensor, glow: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(light, lit, lines), each (T, H, W): lamps at these angles shine through each frame at what glows in it."""
    _, height, width = body.shape
    there, back = _turning_grids(angles, (height, width)), _turning_grids(-angles, (height, width))
    seen = _sample(torch.stack([body, glow]), there)
    aperture = seen[:, 1].amax(2, keepdim=True).expand(-1, -1, height, -1)
    depth = seen[:, 0].cumsum(2) * (2 / height)
    rays = torch.stack([aperture, aperture * torch.exp(-DIMMING * depth)], 1)
    ys, xs = _pixels(height)[:, None], _pixels(width)
    weight = glow + 1e-6
    middle = torch.stack([(weight * ys).sum((1, 2)), (weight * xs).sum((1, 2))]) / weight.sum((1, 2))
    lit_frames = torch.sigmoid(20 * (glow.amax((1, 2)) - 0.3))
    turned_back = _sample_each(rays, back) * body
    light, lit = turned_back[:, 1].mean(0), turned_back[:, 0].gt(0.1).float().mean(0)
    diffuse = F.avg_pool2d(glow[:, None], 5, 1, 2)[:, 0] * body
    light = F.avg_pool2d((light + 0.3 * diffuse)[:, None], 3, 1, 1)[:, 0] * body
    top = (light * (glow > 0.9)).sum() / (glow > 0.9).sum().clamp_min(1)
    light = light / top if top > 0.05 else light
    dy, dx = ys - middle[0][:, None, None], xs - middle[1][:, None, None]
    lines = torch.zeros_like(body)
    for angle in angles.tolist():
        across, along = dx * math.cos(angle) + dy * math.sin(angle), dx * math.sin(angle) - dy * math.cos(angle)
        lines = torch.maximum(lines, torch.exp(-((across * width / 2) ** 2) / 2) * (along > 0))
    return light, lit, lines * lit_frames[:, None, None]


def _turning_grids(angles: Tensor, plane: tuple[int, int]) -> Tensor:
    """(L, H, W, 2) sampling grids of frames turned by ``angles``."""
    cos, sin, none = angles.cos(), angles.sin(), torch.zeros_like(angles)
    rows = torch.stack([torch.stack([cos, -sin, none], 1), torch.stack([sin, cos, none], 1)], 1)
    return F.affine_grid(rows, [len(angles), 1, *plane], align_corners=False)


def _sample(volumes_cthw: Tensor, grids: Tensor) -> Tensor:
    """(L, C, T, H, W): the same volumes turned by each of L grids."""
    frames = volumes_cthw.flatten(0, 1)[None].expand(len(grids), -1, -1, -1)
    turned: Tensor = F.grid_sample(frames, grids, align_corners=False)
    return turned.reshape(len(grids), *volumes_cthw.shape)


def _sample_each(volumes_lcthw: Tensor, grids: Tensor) -> Tensor:
    """(L, C, T, H, W): volumes of each lamp turned by that lamp's grid."""
    turned: Tensor = F.grid_sample(volumes_lcthw.flatten(1, 2), grids, align_corners=False)
    return turned.reshape(volumes_lcthw.shape)
