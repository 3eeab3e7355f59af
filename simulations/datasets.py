"""Hospitals of a simulation: from data settings to one SiteConfig a hospital."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from client.cohort import case_path
from client.site import SiteConfig
from shared_model.errors import InputError
from simulations.partition import one_site, openkbp_sites, openkbp_split
from simulations.phantom import STYLES, write_hospital
from simulations.settings import DataSettings


def hospitals(data: DataSettings, partition: str, out: Path, seed: int) -> list[SiteConfig]:
    """The hospitals of a run. Phantom hospitals are written below ``data.root`` (or ``out``) unless they are there."""
    if data.kind == "openkbp":
        return openkbp_sites(
            openkbp_root(data),
            partition,
            train_per_site=data.train_per_site or None,
            validation_per_site=data.validation_per_site or None,
        )
    return phantom_hospitals(data, data.root or out / "data", seed)


def openkbp_root(data: DataSettings) -> Path:
    """The data set's folder, which DataSettings has checked."""
    assert data.root is not None
    return data.root


def phantom_hospitals(data: DataSettings, root: Path, seed: int) -> list[SiteConfig]:
    """``data.sites`` phantom hospitals, styles in turn; a hospital that is already there is read, not made again."""
    styles = sorted(STYLES)
    sites = []
    for index in range(data.sites):
        style = styles[index % len(styles)]
        folder = root / f"seed{seed}_patients{data.patients}" / f"{index}_{style}"
        sites.append(write_hospital(folder, STYLES[style], data.patients, seed * 1000 + index, site=f"{style}-{index}"))
    return sites


def evaluation_sites(data: DataSettings, split: str, out: Path, seed: int) -> list[SiteConfig]:
    """Sites whose ``validation`` lists the patients of ``split`` (train, validation, test, all), for scoring."""
    if data.kind == "openkbp":
        return [openkbp_split(openkbp_root(data), split)]
    if split == "test":
        raise InputError("split=test: phantom hospitals have no test patients; choose train, validation or all")
    sites = phantom_hospitals(data, data.root or out / "data", seed)
    return [replace(site, train=(), validation=_of(site, split)) for site in sites]


def _of(site: SiteConfig, split: str) -> tuple[str, ...]:
    return {"train": site.train, "validation": site.validation, "all": (*site.train, *site.validation)}[split]


def pooled(sites: Sequence[SiteConfig], folder: Path) -> SiteConfig:
    """All patients of ``sites`` as one site, for the centralised study; case files of different roots are linked."""
    if len({site.root for site in sites}) > 1:
        folder.mkdir(parents=True, exist_ok=True)
        for site in sites:
            for case_id in (*site.train, *site.validation):
                link = folder / f"{case_id}.npz"
                if not link.is_symlink():
                    link.symlink_to(case_path(site, case_id).resolve())
        sites = [replace(site, root=folder) for site in sites]
    return one_site(sites, "pooled")
