"""The site.yaml that `client init` writes: commented, for a person to edit, and valid as it stands."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable
from pathlib import Path

import yaml

from client.names.rules import NameRules
from client.site.config import (
    DATA_FOLDERS,
    DATA_KINDS,
    DICOM,
    GDP,
    GDP_PRESCRIPTIONS,
    SiteConfig,
    case_id_of,
    is_case_id,
)
from client.site.pseudonyms import Pseudonyms
from shared_model.core.errors import InputError

VALIDATION_FRACTION = 0.2
# Another purpose would give another split, and move patients that were held back into training.
_SPLIT = b"fedkt3d:validation:v1"

_TEXT = """\
# What this site trains on. This file stays at the site; the coordinator sees only the site's name.
# After a change, restart `client start`.

# The name under which the consortium admitted this site.
site: {site}

# How the cases are stored. dicom: CT, RTSTRUCT, RTPLAN and RTDOSE in any folders below `root`; cases: one ID.npz a
# patient in `root`; openkbp, openkbp128: the compact OpenKBP data set, in half64/ or full128/ below `root`;
# gdp: plans of the GDP-HMM challenge, PATIENT+PLAN.npz, and PTV_DICT.json in `root`.
data: {data}
root: {root}

# Patients by pseudonym: the file's name without .npz, and for gdp with _ instead of +. Training patients shape the
# shared model. Validation patients only score it and must stay out of training. `client init` made both lists from the
# folder: each patient was held back with a chance of one in five, whoever else is there. Check them: few patients may
# all be on one side.
train: {train}
validation: {validation}

# Training cases that are plans of one patient, one list for each such patient. Together they count as one patient.
plans: {plans}

# Folder for derived files that make later starts faster. null: none.
cache: {cache}

# CPU threads to train with. 0: all. For equal results use equal numbers of threads.
threads: {threads}

# Where to train and predict: auto (this machine's accelerator, else the CPU), cpu, cuda, cuda:N, cuda:N,M (they share
# out a step's patients; predictions use the first) or mps. `client check` says which it will be. Accelerators round
# otherwise than CPUs, so equal results need equal devices.
device: {device}

# The hospital's web proxy, if connections to the coordinator must go through one: http://HOST:PORT or
# http://USER:PASSWORD@HOST:PORT. Empty: none. It must pass TLS on unopened (CONNECT).
proxy: {proxy}

# For dicom and gdp: the file of the site's rules for structure names (null: none). Only for dicom: the file of the salt
# that makes the pseudonyms. Keep the salt: another one gives every patient another pseudonym, and then the lists above
# name no patient.
names: {names}
pseudonyms: {pseudonyms}
"""


def site_text(config: SiteConfig) -> str:
    """Return the commented YAML of a site's configuration; ``SiteConfig.load`` reads the same back."""
    return _TEXT.format(
        site=_yaml(config.site),
        data=_yaml(config.data),
        root=_yaml(str(config.root.resolve())),
        train=_yaml(list(config.train)),
        validation=_yaml(list(config.validation)),
        plans=_yaml([list(group) for group in config.plans]),
        cache=_path(config.cache),
        threads=config.threads,
        device=config.device,
        proxy=_yaml(config.proxy),
        names=_path(config.names),
        pseudonyms=_path(config.pseudonyms),
    )


def _path(path: Path | None) -> str:
    return "null" if path is None else _yaml(str(path.resolve()))


def find_site(site: str, data: str, root: Path) -> SiteConfig:
    """Make the configuration of all cases in ``root``, about a fifth of the patients for validation.

    InputError when ``data`` is unknown, or is dicom (``find_dicom_site``), or the folder holds no case.
    """
    if data not in DATA_FOLDERS:
        raise InputError(f"--data {data}: expected one of {', '.join(DATA_KINDS)}")
    folder = root / DATA_FOLDERS[data]
    if not folder.is_dir():
        raise InputError(f"--data-root {root}: no folder {folder}; expected the cases of --data {data} there")
    cases = sorted(case_id_of(data, path) for path in folder.glob("*.npz"))
    if not cases:
        raise InputError(f"--data-root {root}: no *.npz in {folder}; expected one file a patient")
    odd = sum(not is_case_id(case) for case in cases)
    if odd:
        raise InputError(
            f"--data-root {root}: {odd} files in {folder} are not named by a pseudonym (letters, digits, _ and -)"
        )
    if data == GDP:
        return _find_plans(site, root, sorted(folder.glob("*.npz")))
    train, validation = _split(cases, site.encode())
    return SiteConfig(site=site, data=data, root=root, train=train, validation=validation)


def _find_plans(site: str, root: Path, paths: list[Path]) -> SiteConfig:
    """GDP-HMM has several plans of a patient: the patients are split, and those that are trained on stay grouped."""
    if not (root / GDP_PRESCRIPTIONS).is_file():
        raise InputError(
            f"--data-root {root}: no {GDP_PRESCRIPTIONS}; put the challenge's prescriptions beside the plans"
        )
    plans: dict[str, list[str]] = {}
    for path in paths:
        plans.setdefault(path.stem.partition("+")[0], []).append(case_id_of(GDP, path))
    train, validation = _split(plans, site.encode())
    return SiteConfig(
        site=site,
        data=GDP,
        root=root,
        train=tuple(case for patient in train for case in plans[patient]),
        validation=tuple(case for patient in validation for case in plans[patient]),
        plans=tuple(tuple(plans[patient]) for patient in train if len(plans[patient]) > 1),
    )


def find_dicom_site(site: str, root: Path, pseudonyms: Pseudonyms, folder: Path) -> SiteConfig:
    """Make the configuration of all DICOM studies below ``root`` that can be trained on, one a patient.

    ``folder`` is the site's own: its cache, its rules for names and the salt of ``pseudonyms`` will lie there.
    InputError when there is no such study.
    """
    # These import torch: `client status` stays quick without.
    from client.data import dicom_cohort
    from client.dicom.find import find_studies

    found = find_studies(root, pseudonyms)
    cases = dicom_cohort.trainable(found, NameRules())
    if not cases:
        raise InputError(
            f"--data-root {root}: of {len(found.studies)} studies in {found.files} files none can be trained on: each"
            " needs CT, RTSTRUCT with a target, RTDOSE and a prescription; `client check` says what is missing"
        )
    # By patient, not by case: with another plan a patient stays on the same side.
    of_patient = {case.partition("_")[0]: case for case in cases}
    train, validation = (tuple(of_patient[patient] for patient in side) for side in _split(of_patient, pseudonyms.salt))
    return SiteConfig(
        site=site,
        data=DICOM,
        root=root,
        train=train,
        validation=validation,
        cache=folder / "cache",
        names=folder / "structures.yaml",
        pseudonyms=folder / "secrets" / "pseudonyms",
    )


def _split(patients: Iterable[str], key: bytes) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return training patients and those that are held back, in the order given.

    A patient's side follows from pseudonym and ``key`` alone, so a file that comes or goes moves nobody else. For that
    reason there may be nobody on one side: a rule that trains on every lone patient trains on both when they are two.
    """
    held_back = {
        patient: int.from_bytes(hmac.digest(key, _SPLIT + b"\0" + patient.encode(), hashlib.sha256)[:8])
        < VALIDATION_FRACTION * 2**64
        for patient in patients
    }
    return tuple(p for p, held in held_back.items() if not held), tuple(p for p, held in held_back.items() if held)


def _yaml(value: object) -> str:
    """Return a value in YAML's flow style on one line."""
    return yaml.safe_dump(value, default_flow_style=True, width=10**9, allow_unicode=True).removesuffix("...\n").strip()
