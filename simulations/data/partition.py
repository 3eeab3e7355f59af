"""Splits of a data set over hospitals: by a rule or a file, limits for quick runs, and pooling into one site."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from client.data.load import case_path
from client.data.npz import read_arrays
from client.site.config import SiteConfig
from shared_model.core.errors import FieldError, InputError
from simulations.data.csv_patient import TARGETS
from simulations.data.partition_rules import BY_VOXELS, RULES, CohortPatient, assign_hospitals

OPENKBP_SPLITS = ("train", "validation", "test")


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(
            f"{path}: no such file; give a partition's file, or as data.root the folder of OpenKBP's npz form"
        ) from None
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read as JSON ({type(error).__name__})") from error


def _patients(content: Any, split: str, path: Path, where: str) -> tuple[str, ...]:
    ids = content.get(split, []) if isinstance(content, dict) else None
    if not isinstance(ids, list):
        raise InputError(f"{path}: {where}: expected a list of patients under {split!r}")
    return tuple(ids)


def check_files(site: SiteConfig) -> SiteConfig:
    """``site`` if every case that it lists has a file. Raises InputError naming the first that has none."""
    for case_id in (*site.train, *site.validation):
        path = case_path(site, case_id)
        if not path.is_file():
            raise InputError(f"{path}: no such file; site {site.site} lists case {case_id}")
    return site


def first_cases(site: SiteConfig, train: int | None = None, validation: int | None = None) -> SiteConfig:
    """The first ``train`` and ``validation`` cases of a site alone (``None``: all). Raises InputError below 1."""
    for key, limit in (("train_per_site", train), ("validation_per_site", validation)):
        if limit is not None and limit < 1:
            raise InputError(f"{key} is {limit}; expected at least 1, or nothing for all cases")
    return replace(site, train=site.train[:train], validation=site.validation[:validation])


def load_partition(
    root: Path,
    partition: str,
    *,
    train_per_site: int | None = None,
    validation_per_site: int | None = None,
    data: str = "openkbp",
) -> list[SiteConfig]:
    """The hospitals of a partition with their training and validation patients.

    ``root`` is the npz form of OpenKBP. ``partition`` is a rule's name (simulations/data/partition_rules.py), or a file
    ``NAME.json`` that lists the patients; sites keep the file's names and order. Raises InputError for an unknown
    partition, a file that is missing or malformed, a patient without data or in two hospitals.
    """
    if partition.endswith(".json"):
        sites = _listed_sites(root, Path(partition).expanduser(), data)
    elif partition in RULES:
        hospitals = assign_hospitals(partition, _cohort(root, with_voxels=partition in BY_VOXELS))
        sites = [
            SiteConfig(site=name, data=data, root=root, train=tuple(h.train), validation=tuple(h.validation))
            for name, h in hospitals.items()
        ]
    else:
        raise InputError(f"partition {partition!r}: expected one of {', '.join(RULES)}, or a file NAME.json")
    return [check_files(first_cases(site, train_per_site, validation_per_site)) for site in sites]


def _listed_sites(root: Path, path: Path, data: str) -> list[SiteConfig]:
    content = _read_json(path)
    hospitals = content.get("hospitals") if isinstance(content, dict) else None
    if not isinstance(hospitals, dict) or not hospitals:
        raise InputError(f"{path}: expected a non-empty key 'hospitals'")
    sites: list[SiteConfig] = []
    owner: dict[str, str] = {}
    for name, hospital in hospitals.items():
        patients = hospital.get("patients") if isinstance(hospital, dict) else None
        train, validation = (_patients(patients, split, path, name) for split in ("train", "validation"))
        try:
            site = SiteConfig(site=name, data=data, root=root, train=train, validation=validation)
        except FieldError as error:
            raise InputError(f"{path}: {name}: {error}") from None
        for case_id in (*site.train, *site.validation):
            if owner.setdefault(case_id, name) != name:
                raise InputError(f"{path}: patient {case_id} belongs to {owner[case_id]} and to {name}; expected one")
        sites.append(site)
    return sites


def _cohort(root: Path, *, with_voxels: bool) -> list[CohortPatient]:
    """The training and validation patients of a data set, as the rules want them."""
    patients = []
    for split in ("train", "validation"):
        for case_id in openkbp_split(root, split).validation:
            y_mm, slice_mm, targets = _voxels_and_targets(root, case_id) if with_voxels else (0.0, 0.0, 0)
            patients.append(
                CohortPatient(case_id=case_id, split=split, in_plane_mm=y_mm, slice_mm=slice_mm, targets=targets)
            )
    return patients


def _voxels_and_targets(root: Path, case_id: str) -> tuple[float, float, int]:
    """(native voxel size in plane, between slices, number of targets) from a patient's half64 file."""
    path = root / "half64" / f"{case_id}.npz"
    arrays = read_arrays(path, ("vox_mm", "masks"))
    if arrays["vox_mm"].shape != (3,) or arrays["masks"].ndim != 2:
        raise InputError(f"{path}: expected three numbers in 'vox_mm' and packed rows in 'masks'")
    y_mm, _, slice_mm = (float(size) / 2 for size in arrays["vox_mm"])
    return y_mm, slice_mm, int(arrays["masks"][-len(TARGETS) :].any(axis=1).sum())


def openkbp_split(root: Path, split: str, *, limit: int | None = None, data: str = "openkbp") -> SiteConfig:
    """One site whose ``validation`` cases are the patients of an official split (``train|validation|test|all``).

    For scoring a model on a whole cohort. Raises InputError as ``load_partition`` does.
    """
    if split not in (*OPENKBP_SPLITS, "all"):
        raise InputError(f"split {split!r}: expected one of {', '.join((*OPENKBP_SPLITS, 'all'))}")
    path = root / "splits.json"
    content = _read_json(path)
    wanted = OPENKBP_SPLITS if split == "all" else (split,)
    cases = tuple(case_id for part in wanted for case_id in _patients(content, part, path, "splits"))
    site = SiteConfig(site=f"openkbp_{split}", data=data, root=root, train=(), validation=cases)
    return check_files(first_cases(site, None, limit))


def one_site(sites: Sequence[SiteConfig], name: str) -> SiteConfig:
    """All sites' cases as one site called ``name``, in order: what a centralised study trains on.

    Sites of one root are pooled in place. Sites with case files in folders of their own get a folder ``name`` beside
    the first one's, with a link to each case. Raises InputError if the kinds of data differ or two sites list one case.
    """
    if not sites:
        raise InputError(f"{name}: no sites to pool; expected at least one")
    first = sites[0]
    pooled = replace(
        first,
        site=name,
        train=tuple(case_id for site in sites for case_id in site.train),
        validation=tuple(case_id for site in sites for case_id in site.validation),
    )
    for site in sites[1:]:
        if site.data != first.data or (site.data != "cases" and site.root != first.root):
            raise InputError(f"{name}: sites {first.site} and {site.site} hold different data and cannot be pooled")
    if all(site.root == first.root for site in sites):
        return pooled
    folder = first.root.parent / name
    for site in sites:
        for case_id in (*site.train, *site.validation):
            _link(case_path(site, case_id), folder / f"{case_id}.npz")
    return replace(pooled, root=folder)


def _link(source: Path, link: Path) -> None:
    """A symbolic link to ``source``, if it is not there yet. Raises InputError if something else is."""
    source = source.resolve()
    if link.is_symlink() and link.resolve() == source:
        return
    if link.is_symlink() or link.exists():
        raise InputError(f"{link}: is in the way of pooled cases; delete the folder {link.parent}")
    try:
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(source)
    except OSError as error:
        raise InputError(f"{link}: cannot link pooled cases here ({error.strerror})") from error
