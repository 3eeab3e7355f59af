"""Procedural clips as cases, for the prior of the U-shaped network: what it reads of a patient it reads of a clip.

A clip's passes (simulations/data/video.py) stand for what they resemble: what glows for targets, labels for organs, the
outline of the large shape for the body, shading for CT, lamps for beams, light for dose. Channels of physics follow
from these as a patient's do. Nothing is anatomy or dose; prescriptions and gray only give the numbers a scale.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np

from client.data.case_files import save_case
from client.site.config import SiteConfig
from shared_model.patient.anatomy import BODY_SITES, HEAD_NECK, target_name
from shared_model.patient.case import Case
from shared_model.patient.geometry import Grid
from shared_model.patient.plates import angle_plate, beam_plate, target_centroid_mm
from simulations.data.video import GENERATOR_VERSION, render_clip, shuffled_frames
from simulations.phantom.hospitals import claim_folder

# A frame's edge, whatever its voxels: about that of the phantoms.
_FRAME_MM = 320.0
_PRESCRIBED_GY = (70.0, 56.0)
# A target's voxels glow so much at least, of what glows most.
_GLOW = (0.85, 0.35)


def clip_case(index: int, seed: int, edge: int, *, shuffled: bool = False, case_id: str | None = None) -> Case:
    """Clip ``index`` of ``seed`` as a case of ``edge``^3 voxels; ``shuffled``: its frames in random order, the control.

    The same arguments give the same case, its masks to the bit.
    """
    clip = render_clip(np.random.default_rng([GENERATOR_VERSION, seed, index]), (edge, edge, edge))
    order = shuffled_frames(index, seed, edge) if shuffled else slice(None)
    passes = {name: volume[order].numpy() for name, volume in clip.passes.items()}
    grid = Grid(shape=(edge,) * 3, spacing_mm=(_FRAME_MM / edge,) * 3, origin_mm=(0.0, 0.0, 0.0))
    body = passes["body"] > 0.5
    share = passes["ptv"] / max(float(passes["ptv"].max()), 1e-6)
    targets = {
        target_name(gy): mask for gy, least in zip(_PRESCRIBED_GY, _GLOW, strict=True) if (mask := share > least).any()
    }
    prescriptions_gy = {target_name(gy): gy for gy in _PRESCRIBED_GY if target_name(gy) in targets}
    labels = {name: passes["oar"] == number + 1 for number, name in enumerate(BODY_SITES[HEAD_NECK].organs)}
    gantry_deg = tuple(math.degrees(angle) % 360.0 for angle in clip.lamps_rad)
    isocentre_mm = target_centroid_mm(targets[target_name(_PRESCRIBED_GY[0])], grid)
    shares = {name: np.float32(gy / _PRESCRIBED_GY[0]) for name, gy in prescriptions_gy.items()}
    weights = np.max([mask * shares[name] for name, mask in targets.items()], axis=0)
    return Case(
        case_id=f"clip_{seed}_{index}" if case_id is None else case_id,
        grid=grid,
        body=body,
        structures={**{name: mask & body for name, mask in labels.items() if (mask & body).any()}, **targets},
        prescriptions_gy=prescriptions_gy,
        ct_hu=np.where(body, 1000.0 * passes["ct"], -1000.0).clip(-1000.0, 2000.0).astype(np.float32),
        beam_plate=beam_plate(weights, grid, isocentre_mm, gantry_deg),
        angle_plate=angle_plate(grid, isocentre_mm, gantry_deg),
        gantry_deg=gantry_deg,
        dose_gy=(np.clip(passes["dose"], 0.0, 1.5) * body * _PRESCRIBED_GY[0]).astype(np.float32),
    )


def write_clips(folder: Path, count: int, seed: int, edge: int, *, shuffled: bool, site: str) -> SiteConfig:
    """Make ``count`` clips in ``folder`` as one site, a fifth of them for validation; what is there is not made again.

    InputError for a folder that holds something else.
    """
    record = {"generator": GENERATOR_VERSION, "clips": count, "seed": seed, "edge": edge, "shuffled": shuffled}
    claim_folder(folder, json.dumps(record, sort_keys=True))
    case_ids = tuple(f"clip_{seed}_{index}" for index in range(count))
    held_back = max(1, count // 5)
    for index, case_id in enumerate(case_ids):
        path = folder / f"{case_id}.npz"
        if not path.is_file():
            save_case(path, clip_case(index, seed, edge, shuffled=shuffled, case_id=case_id))
    config = SiteConfig(
        site=site, data="cases", root=folder, train=case_ids[:-held_back], validation=case_ids[-held_back:]
    )
    config.save(folder / "site.yaml")
    return config
