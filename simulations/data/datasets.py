"""Hospitals of a simulation: from data settings to one SiteConfig a hospital."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

from client.site.config import SiteConfig
from shared_model.core.errors import InputError
from simulations.data.clip_cases import write_clips
from simulations.data.convert import SaidProgress, convert
from simulations.data.partition import first_cases, load_partition, openkbp_split
from simulations.phantom.hospitals import BODY_STYLES, write_hospital
from simulations.settings.commands import DataSettings


def hospitals(data: DataSettings, partition: str, out: Path, seed: int) -> list[SiteConfig]:
    """The hospitals of a run. Phantom hospitals are written below ``data.root`` (or ``out``) unless they are there.

    InputError when ``data.hospitals`` names one that the partition does not have.
    """
    if data.kind == "openkbp":
        found = load_partition(
            openkbp_root(data, out),
            partition,
            train_per_site=data.train_per_site or None,
            validation_per_site=data.validation_per_site or None,
        )
    else:
        sites = made_hospitals(data, data.root or out / "data", seed)
        found = [first_cases(site, data.train_per_site or None, data.validation_per_site or None) for site in sites]
    there = [site.site for site in found]
    for name in data.hospitals:
        if name not in there:
            raise InputError(f"data.hospitals: no hospital {name!r}; expected some of {', '.join(there)}")
    return [site for site in found if not data.hospitals or site.site in data.hospitals]


def hospital_count(data: DataSettings, partition: str, out: Path) -> int:
    """How many hospitals ``hospitals`` gives, without making phantoms."""
    if data.hospitals:
        return len(data.hospitals)
    return len(load_partition(openkbp_root(data, out), partition)) if data.kind == "openkbp" else data.sites


def openkbp_root(data: DataSettings, out: Path) -> Path:
    """The folder with the data set's npz form. A clone of the challenge's repository is converted first, once."""
    assert data.root is not None  # DataSettings has checked it
    if not data.is_clone:
        return data.root
    cache = data.cache or out / "data" / "openkbp"
    conversion = convert(data.root, cache, SaidProgress())
    if conversion.read:
        print(conversion.table(), file=sys.stderr)
    return cache


def made_hospitals(data: DataSettings, root: Path, seed: int) -> list[SiteConfig]:
    """``data.sites`` phantom hospitals, styles in turn, or sites of clips; one that is there is not made again.

    All phantoms are of one site of the body, ``data.body_site``.
    """
    size = f"patients{data.patients}" if data.edge == 32 else f"patients{data.patients}_edge{data.edge}"
    if data.kind == "clips":
        kind = "shuffled" if data.shuffled else "clips"
        numbers = [seed * 1000 + index for index in range(data.sites)]
        return [
            write_clips(
                root / f"{kind}_seed{seed}_{size}" / str(index), data.patients, number, data.edge,
                shuffled=data.shuffled, site=f"{kind}-{index}",
            )
            for index, number in enumerate(numbers)
        ]  # fmt: skip
    known = BODY_STYLES[data.body_site]
    styles = sorted(known)
    sites = []
    for index in range(data.sites):
        style = styles[index % len(styles)]
        folder = root / f"seed{seed}_{size}" / f"{index}_{style}"
        made = write_hospital(
            folder, known[style], data.patients, seed * 1000 + index, site=f"{style}-{index}", shape=(data.edge,) * 3
        )
        sites.append(made)
    return sites


def training_sites(data: DataSettings, partition: str | None, out: Path, seed: int) -> list[SiteConfig]:
    """Sites whose ``validation`` lists the patients that a central training learns from.

    Those of the hospitals of ``partition`` (of ``data.hospitals``), or without a partition all of the official split.
    """
    if partition is None and data.kind == "openkbp":
        if data.hospitals:
            raise InputError("data.hospitals: expected partition=NAME too, which says who the hospitals are")
        return evaluation_sites(data, "train", out, seed)
    return [replace(site, train=(), validation=site.train) for site in hospitals(data, partition or "", out, seed)]


def evaluation_sites(data: DataSettings, split: str, out: Path, seed: int) -> list[SiteConfig]:
    """Sites whose ``validation`` lists the patients of ``split`` (train, validation, test, all), for scoring."""
    if data.hospitals:
        raise InputError(f"data.hospitals={list(data.hospitals)}: splits are scored whole; expected an empty list")
    if data.kind == "openkbp":
        limits = {"train_per_site": data.train_per_site, "validation_per_site": data.validation_per_site}
        for key in (key for key, limit in limits.items() if limit):
            raise InputError(f"data.{key}={limits[key]}: the official splits are scored whole; expected 0")
        return [openkbp_split(openkbp_root(data, out), split)]
    if split == "test":
        raise InputError("split=test: phantom hospitals have no test patients; choose train, validation or all")
    sites = made_hospitals(data, data.root or out / "data", seed)
    return [replace(site, train=(), validation=_of(site, split)) for site in sites]


def _of(site: SiteConfig, split: str) -> tuple[str, ...]:
    return {"train": site.train, "validation": site.validation, "all": (*site.train, *site.validation)}[split]
