"""SiteConfig: what one hospital trains on and where it lies. Read from a YAML file that never leaves the site."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import yaml

from shared_model.core.device_words import DEVICES, is_device_word
from shared_model.core.errors import FieldError, InputError
from shared_model.core.files import ORDINARY, write_text
from shared_model.core.located import Located, read_located

# The ways in which a site's cases are stored in files, and the folder below the site's root that holds them, one npz
# each: OpenKBP's compact form at half and at native resolution, one case file per patient, or GDP-HMM's plans.
DATA_FOLDERS: Mapping[str, str] = {"openkbp": "half64", "openkbp128": "full128", "cases": "", "gdp": ""}
GDP = "gdp"
# The prescriptions of all patients of a GDP-HMM folder, beside the plans.
GDP_PRESCRIPTIONS = "PTV_DICT.json"
DICOM = "dicom"
DATA_KINDS = (*DATA_FOLDERS, DICOM)

_PROXY = re.compile(r"https?://([^\s/@:]+:[^\s/@]+@)?[\w.\[\]:-]+:\d{1,5}/?")
_SITE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,31}")
# No separators and no leading dot, so that a case id can never point out of its folder.
_CASE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")


def is_case_id(text: str) -> bool:
    """Whether ``text`` is a plain pseudonym."""
    return _CASE_ID.fullmatch(text) is not None


def case_id_of(data: str, path: Path) -> str:
    """Return the case id of a file of kind ``data``: its name; GDP-HMM's PATIENT+PLAN becomes PATIENT_PLAN."""
    return path.stem.replace("+", "_") if data == GDP else path.stem


def check_case_id(case_id: str, where: str) -> str:
    """Return ``case_id`` if it is a plain pseudonym (letters, digits, _ and -); raise FieldError for anything else."""
    if not isinstance(case_id, str) or not is_case_id(case_id):
        text = f"case id {case_id!r} is refused; expected letters, digits, '_' or '-', like pt_12"
        raise FieldError(where, text, case_id)
    return case_id


@dataclass(frozen=True, kw_only=True)
class SiteConfig:
    """One site's data. ``root`` holds the data set (``openkbp``), one ``ID.npz`` per patient (``cases``), one
    ``PATIENT+PLAN.npz`` per plan (``gdp``), or DICOM-RT studies in any folders (``dicom``).

    ``train`` and ``validation`` are disjoint case ids, in the order in which they are used. ``cache`` is a folder for
    derived files, ``threads`` the CPU threads to train with (0: all), ``device`` where to train and predict (auto, cpu,
    mps, cuda, cuda:N or cuda:N,M). ``plans``: training cases that are plans of one and the same patient, a group each;
    every other case is a patient of its own. ``pseudonyms`` is the file of the salt that makes DICOM's case ids,
    ``names`` the site's rules for structure names. Raises InputError naming the key.
    """

    site: str
    data: str
    root: Path
    train: tuple[str, ...]
    validation: tuple[str, ...]
    cache: Path | None = None
    threads: int = 0
    device: str = "auto"
    proxy: str = ""
    plans: tuple[tuple[str, ...], ...] = ()
    names: Path | None = None
    pseudonyms: Path | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.site, str) or _SITE_NAME.fullmatch(self.site) is None:
            raise FieldError("site", f"{self.site!r}: expected 1 to 32 letters, digits, '_' or '-'")
        if self.data not in DATA_KINDS:
            raise FieldError("data", f"{self.data!r}: expected one of {', '.join(DATA_KINDS)}")
        if isinstance(self.threads, bool) or not isinstance(self.threads, int) or not 0 <= self.threads <= 1024:
            raise FieldError("threads", f"{self.threads!r}: expected a whole number from 0 to 1024")
        if not is_device_word(self.device):
            raise FieldError("device", f"{self.device!r}: expected {DEVICES}")
        if not isinstance(self.proxy, str) or (self.proxy and _PROXY.fullmatch(self.proxy) is None):
            # The value may hold a password, so it is not repeated.
            raise FieldError("proxy", "expected http://HOST:PORT or http://USER:PASSWORD@HOST:PORT, or nothing")
        for key in ("train", "validation"):
            for case_id in getattr(self, key):
                check_case_id(case_id, key)
        listed = (*self.train, *self.validation)
        if not listed:
            raise FieldError("train", "train and validation are both empty; list at least one case")
        if len(set(listed)) != len(listed):
            twice = next(case_id for case_id in listed if listed.count(case_id) > 1)
            key = "validation" if twice in self.validation else "train"
            raise FieldError(key, f"case {twice!r} is listed twice; each case belongs to one split, once", twice)
        grouped = [case_id for group in self.plans for case_id in group]
        if len(set(grouped)) != len(grouped) or not set(grouped) <= set(self.train):
            raise FieldError("plans", "expected groups of cases listed under train, each case in one group")
        if self.data == DICOM:
            self._check_dicom(listed)

    def patients(self) -> tuple[tuple[int, ...], ...]:
        """Training patients, each as the indices of their cases in ``train``, in the order of their first cases."""
        of_case = {case_id: group for group in self.plans for case_id in group}
        groups: dict[tuple[str, ...], list[int]] = {}
        for index, case_id in enumerate(self.train):
            groups.setdefault(of_case.get(case_id, (case_id,)), []).append(index)
        return tuple(tuple(indices) for indices in groups.values())

    def _check_dicom(self, listed: tuple[str, ...]) -> None:
        if self.pseudonyms is None:
            raise FieldError("data", "dicom needs the key 'pseudonyms': the file of the salt that makes its case ids")
        patients = [case_id.partition("_")[0] for case_id in listed]
        if len(set(patients)) != len(patients):
            twice = next(patient for patient in patients if patients.count(patient) > 1)
            last = next(case_id for case_id in reversed(listed) if case_id.partition("_")[0] == twice)
            key = "validation" if last in self.validation else "train"
            raise FieldError(key, f"two plans of patient {twice} are listed; a patient counts once, so list one", last)

    @classmethod
    def load(cls, path: Path) -> SiteConfig:
        """Read the YAML file ``path``; a relative folder in it starts at the file's own folder.

        Raises InputError naming file, line and key for a missing file, bad YAML, an unknown or missing key, a wrong
        type or value.
        """
        if not path.exists():
            raise InputError(f"{path}: no such file; expected a site configuration (YAML)")
        top = read_located(path)
        if not top.is_mapping:
            raise top.error("expected keys and values such as 'site: clinic-a'")
        there = top.mapping({field.name for field in fields(cls)}, ("site", "data", "root", "train", "validation"))
        try:
            return cls(**_values(there, path.parent))
        except FieldError as error:
            raise there[error.key].item(error.item).error(error.text) from None

    def save(self, path: Path) -> None:
        """Write the configuration as YAML that ``load`` reads back, with absolute folders, atomically."""
        content = {
            "site": self.site,
            "data": self.data,
            "root": str(self.root.resolve()),
            "train": list(self.train),
            "validation": list(self.validation),
            "cache": None if self.cache is None else str(self.cache.resolve()),
            "threads": self.threads,
            "device": self.device,
            "proxy": self.proxy,
            "plans": [list(group) for group in self.plans],
        }
        content |= {
            key: str(value.resolve()) for key in ("names", "pseudonyms") if (value := getattr(self, key)) is not None
        }
        write_text(path, yaml.safe_dump(content, sort_keys=False), mode=ORDINARY)


def _values(there: Mapping[str, Located], folder: Path) -> dict[str, Any]:
    """Return the fields of a SiteConfig from a file; relative paths start at ``folder``. Raises FieldError."""
    values = {key: value.value() for key, value in there.items()}
    for key in ("train", "validation"):
        if not isinstance(values[key], list):
            raise FieldError(key, "expected a list of case ids")
        values[key] = tuple(values[key])
    if "plans" in values:
        values["plans"] = _groups(values["plans"])
    for key in ("root", "cache", "names", "pseudonyms"):
        given = values.get(key)
        if given is None and key != "root":
            continue
        if not isinstance(given, str) or not given:
            raise FieldError(key, "expected a path")
        try:
            values[key] = folder / Path(given).expanduser()
        except RuntimeError:
            raise FieldError(key, f"no home folder for {given!r}") from None
    return values


def _groups(value: object) -> tuple[tuple[str, ...], ...]:
    if not isinstance(value, list) or not all(isinstance(group, list) for group in value):
        raise FieldError("plans", "expected a list of lists of case ids")
    return tuple(tuple(str(case_id) for case_id in group) for group in value)
