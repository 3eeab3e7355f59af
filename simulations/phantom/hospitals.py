"""Synthetic hospitals: seeded patients with optimised coplanar IMRT dose, as Cases and as files.

A Style joins the patients that a hospital treats (head and neck: simulations/phantom/anatomy.py; pelvis.py) with how it
plans (planner.py). The two vary independently, so a test can tell whether a model learned a hospital's patients or its
planning.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np

from client.data.case_files import save_case
from client.site.config import SiteConfig
from shared_model.core.errors import InputError
from shared_model.core.files import ORDINARY, write_text
from shared_model.patient.anatomy import HEAD_NECK, target_name
from shared_model.patient.case import Case, Mask
from shared_model.patient.plates import angle_plate, beam_plate, target_centroid_mm
from simulations.phantom.anatomy import Anatomy, AnatomyStyle, draw_anatomy
from simulations.phantom.pelvis import PelvisStyle, draw_pelvis
from simulations.phantom.planner import PlanStyle, plan_dose

# Part of every hospital's record: change it whenever the same seed gives another patient.
GENERATOR_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class Style:
    """A hospital's patients and its planning."""

    anatomy: AnatomyStyle | PelvisStyle = field(default_factory=AnatomyStyle)
    plan: PlanStyle


def _beams(count: int, first_deg: float = 0.0) -> tuple[float, ...]:
    return tuple((first_deg + index * 360.0 / count) % 360.0 for index in range(count))


_OPENKBP_PLAN = PlanStyle(
    gantry_deg=_beams(9),
    levels_gy=(70.0, 63.0, 56.0),
    level_chance=(1.0, 0.6, 0.9),
    max_gy={"SpinalCord": (35.0, 3.0), "Brainstem": (38.0, 2.0), "Bone_Mandible": (66.0, 1.0)},
    mean_gy={
        "Parotid_L": (26.0, 0.3),
        "Parotid_R": (26.0, 0.3),
        "Larynx": (40.0, 0.2),
        "Esophagus": (30.0, 0.2),
    },
    falloff_floor=0.25,
    falloff_weight=0.6,
    normalise_dose=0.975,
    normalise_spread=0.02,
)
# How often OpenKBP's training patients have the organ.
_OPENKBP_PRESENT = {
    "Brainstem": 0.95,
    "SpinalCord": 0.99,
    "Parotid_R": 0.98,
    "Parotid_L": 0.99,
    "Esophagus": 0.32,
    "Larynx": 0.45,
    "Bone_Mandible": 0.67,
}

STYLES: dict[str, Style] = {
    "openkbp_like": Style(anatomy=AnatomyStyle(present=_OPENKBP_PRESENT), plan=_OPENKBP_PLAN),
    # Seven fields, balanced goals.
    "balanced_7f": Style(
        plan=replace(_OPENKBP_PLAN, gantry_deg=_beams(7), levels_gy=(70.0, 56.0), level_chance=(1.0, 1.0)),
    ),
    # Spares the parotids hard, treats one side of the neck more often, smaller patients.
    "parotid_9f": Style(
        anatomy=AnatomyStyle(unilateral=0.5, size=0.93),
        plan=replace(
            _OPENKBP_PLAN,
            gantry_deg=_beams(9, 20.0),
            levels_gy=(70.0, 63.0, 56.0),
            level_chance=(1.0, 1.0, 1.0),
            mean_gy={"Parotid_L": (14.0, 2.0), "Parotid_R": (14.0, 2.0)},
            falloff_floor=0.22,
            falloff_weight=4.0,
        ),
    ),
    # Few fields, lower prescription, coverage before sparing; mostly larynx.
    "coverage_5f": Style(
        anatomy=AnatomyStyle(sites_mm=((-38.0, 0.8), (0.0, 0.2)), primary_mm=(28.0, 27.0, 28.0)),
        plan=replace(
            _OPENKBP_PLAN,
            gantry_deg=_beams(5),
            levels_gy=(66.0, 54.0),
            level_chance=(1.0, 1.0),
            mean_gy={"Parotid_L": (30.0, 0.05), "Parotid_R": (30.0, 0.05)},
            falloff_weight=0.3,
            normalise_volume=0.98,
            normalise_dose=1.0,
        ),
    ),
    # Cord kept low whatever it costs; high in the neck, larger patients.
    "cord_9f": Style(
        anatomy=AnatomyStyle(sites_mm=((32.0, 0.7), (0.0, 0.3)), nodes_mm=(-60.0, 65.0), size=1.07),
        plan=replace(
            _OPENKBP_PLAN,
            gantry_deg=_beams(9, 20.0),
            levels_gy=(69.96, 59.4),
            level_chance=(1.0, 1.0),
            max_gy={"SpinalCord": (22.0, 15.0), "Brainstem": (25.0, 10.0), "Bone_Mandible": (64.0, 1.0)},
        ),
    ),
}


_PROSTATE_PLAN = PlanStyle(
    gantry_deg=_beams(7),
    levels_gy=(78.0, 60.0),
    level_chance=(1.0, 0.6),
    max_gy={
        "Rectum": (74.0, 2.0),
        "Bladder": (76.0, 1.0),
        "Femur_Head_L": (45.0, 2.0),
        "Femur_Head_R": (45.0, 2.0),
    },
    mean_gy={"Rectum": (36.0, 0.4), "Bladder": (36.0, 0.2), "PenileBulb": (45.0, 0.1), "Spc_Bowel": (20.0, 0.2)},
    falloff_floor=0.25,
    falloff_weight=1.0,
    normalise_dose=0.98,
    normalise_spread=0.015,
)
_PROSTATE_PRESENT = {"PenileBulb": 0.8, "Colon_Sigmoid": 0.5, "Spc_Bowel": 0.7, "Canal_Anal": 0.6}

PELVIS_STYLES: dict[str, Style] = {
    # Seven fields; the seminal vesicles get less in six of ten plans.
    "prostate_7f": Style(anatomy=PelvisStyle(present=_PROSTATE_PRESENT), plan=_PROSTATE_PLAN),
    # Five fields, fewer and larger fractions, small margins, a full bladder; the rectum comes first.
    "rectum_5f": Style(
        anatomy=PelvisStyle(margin_mm=6.0, margin_back_mm=3.5, bladder=1.4, present=_PROSTATE_PRESENT),
        plan=replace(
            _PROSTATE_PLAN,
            gantry_deg=_beams(5, 36.0),
            levels_gy=(60.0,),
            level_chance=(1.0,),
            max_gy={**_PROSTATE_PLAN.max_gy, "Rectum": (57.0, 4.0)},
            mean_gy={**_PROSTATE_PLAN.mean_gy, "Rectum": (16.0, 2.5)},
            falloff_weight=2.0,
        ),
    ),
    # Nine fields; pelvic lymph nodes at a lower level, so bowel counts.
    "nodes_9f": Style(
        anatomy=PelvisStyle(nodes=True, present={**_PROSTATE_PRESENT, "Spc_Bowel": 1.0}),
        plan=replace(
            _PROSTATE_PLAN,
            gantry_deg=_beams(9, 20.0),
            levels_gy=(70.0, 50.4),
            level_chance=(1.0, 1.0),
            mean_gy={**_PROSTATE_PLAN.mean_gy, "Spc_Bowel": (20.0, 1.0)},
        ),
    ),
}

# Styles in turn make a federation's phantom hospitals: of one site of the body each (shared_model/patient/anatomy.py).
BODY_STYLES: dict[str, dict[str, Style]] = {HEAD_NECK: STYLES, "pelvis": PELVIS_STYLES}


def find_style(name: str) -> Style:
    """The built-in style of this name, of any site of the body. Raises InputError with the list of names."""
    known = {**STYLES, **PELVIS_STYLES}
    if name not in known:
        raise InputError(f"phantom style {name!r}: expected one of {', '.join(known)}")
    return known[name]


def phantom_case(
    seed: int, style: Style, shape: tuple[int, int, int] = (32, 32, 32), case_id: str | None = None
) -> Case:
    """One synthetic patient with all seven modalities on a grid over the body's box; the same seed gives the same bits.

    So on one kind of processor. On another the dose is within tenths of a gray: the planner's descent is cut short.

    ``case_id`` defaults to ``ph_SEED``. Raises InputError for a shape below 12 voxels an edge or a negative seed.
    """
    if min(shape) < 12 or seed < 0:
        raise InputError(f"phantom: shape {shape}, seed {seed}: expected at least 12 voxels an edge and a seed >= 0")
    # Separate random streams, so that one seed means the same patient with any planning style.
    level_rng, anatomy_rng, plan_rng = (np.random.default_rng([GENERATOR_VERSION, seed, part]) for part in range(3))
    chances = level_rng.random(len(style.plan.levels_gy))
    levels = [
        gy
        for gy, chance, drawn in zip(style.plan.levels_gy, style.plan.level_chance, chances, strict=True)
        if drawn < chance
    ]
    patients = style.anatomy
    anatomy = (
        draw_pelvis(patients, len(levels), shape, anatomy_rng)
        if isinstance(patients, PelvisStyle)
        else draw_anatomy(patients, len(levels), shape, anatomy_rng)
    )
    targets = _targets(anatomy, levels)
    prescriptions_gy = {target_name(gy): gy for gy in levels if target_name(gy) in targets}
    structures = {**anatomy.organs, **targets}
    dose_gy = plan_dose(anatomy.ct_hu, anatomy.body, structures, prescriptions_gy, anatomy.grid, style.plan, plan_rng)
    highest_gy = max(prescriptions_gy.values())
    isocentre_mm = target_centroid_mm(targets[target_name(highest_gy)], anatomy.grid)
    weights = np.max([mask * np.float32(prescriptions_gy[name] / highest_gy) for name, mask in targets.items()], axis=0)
    return Case(
        case_id=f"ph_{seed}" if case_id is None else case_id,
        grid=anatomy.grid,
        body=anatomy.body,
        structures=structures,
        prescriptions_gy=prescriptions_gy,
        ct_hu=anatomy.ct_hu,
        beam_plate=beam_plate(weights, anatomy.grid, isocentre_mm, style.plan.gantry_deg),
        angle_plate=angle_plate(anatomy.grid, isocentre_mm, style.plan.gantry_deg),
        gantry_deg=tuple(style.plan.gantry_deg),
        dose_gy=dose_gy,
    )


def _targets(anatomy: Anatomy, levels_gy: list[float]) -> dict[str, Mask]:
    """Targets by name. Leaves out a level whose voxels all belong to higher levels."""
    named = zip(levels_gy, anatomy.targets, strict=True)
    return {target_name(gy): mask for gy, mask in named if mask.any()}


def write_hospital(
    folder: Path,
    style: Style,
    patients: int,
    seed: int,
    *,
    site: str | None = None,
    shape: tuple[int, int, int] = (32, 32, 32),
    validation_fraction: float = 0.2,
) -> SiteConfig:
    """Make ``patients`` cases in ``folder`` with their site configuration (``site.yaml``), and return it.

    ``site`` defaults to the folder's name. Patients of different ``seed`` are unrelated. At least one patient is kept
    for validation. A folder that already holds this very hospital is returned as it is; one that holds another is left
    alone with an InputError, as for fewer than 2 patients.
    """
    if patients < 2 or not 0 < validation_fraction < 1:
        raise InputError(f"phantom hospital: {patients} patients, expected 2 or more; validation {validation_fraction}")
    record = {
        "generator": GENERATOR_VERSION,
        "style": asdict(style),
        "patients": patients,
        "seed": seed,
        "shape": shape,
    }
    claim_folder(folder, json.dumps(record, sort_keys=True))
    case_ids = tuple(f"ph_{seed}_{index}" for index in range(patients))
    held_back = min(max(1, round(patients * validation_fraction)), patients - 1)
    config = SiteConfig(
        site=folder.name if site is None else site,
        data="cases",
        root=folder,
        train=case_ids[:-held_back],
        validation=case_ids[-held_back:],
    )
    for index, case_id in enumerate(case_ids):
        path = folder / f"{case_id}.npz"
        if not path.is_file():
            # Seeds of one hospital's patients never meet those of another's.
            patient_seed = int(np.random.SeedSequence([seed, index]).generate_state(1, np.uint32)[0])
            save_case(path, phantom_case(patient_seed, style, shape, case_id))
    config.save(folder / "site.yaml")
    return config


def claim_folder(folder: Path, record: str) -> None:
    """Make ``folder`` the folder of the hospital in ``record``; InputError if it belongs to another hospital."""
    path = folder / "hospital.json"
    if path.is_file():
        if path.read_text(encoding="utf-8") != record:
            raise InputError(f"{folder}: holds another phantom hospital; choose a new folder or delete it")
        return
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder}: is not an empty folder and holds no phantom hospital; choose a new folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_text(path, record, mode=ORDINARY)
    except OSError as error:
        raise InputError(f"{folder}: cannot be written ({error.strerror}); choose another folder") from error
