"""A DICOM folder as a site's data: found, split by patient, read once and kept, read again when it changes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from client.data import dicom_cohort
from client.data import load as cohort
from client.data.case_files import load_case
from client.data.site_file import find_dicom_site, site_text
from client.names.rules import NAMES_TEXT
from client.site.config import SiteConfig
from client.site.pseudonyms import Pseudonyms
from shared_model.core.errors import InputError
from shared_model.patient.case import Case
from simulations.phantom.dicom import write_dicom_hospital
from simulations.phantom.hospitals import STYLES


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three patients on DICOM."""
    folder = tmp_path_factory.mktemp("scans") / "in"
    write_dicom_hospital(folder, STYLES["openkbp_like"], patients=3, seed=1, shape=(12, 12, 12))
    return folder


def _site(scans: Path, home: Path) -> SiteConfig:
    """The site as `client init` makes it, with a salt that holds back one patient of the three."""
    salt = home / "secrets" / "pseudonyms"
    salt.parent.mkdir(exist_ok=True)
    salt.write_bytes(bytes([1]) * 32)
    pseudonyms = Pseudonyms.from_file(salt)
    config = find_dicom_site("north", scans, pseudonyms, home)
    assert config.names is not None
    config.names.write_text(NAMES_TEXT)
    (home / "site.yaml").write_text(site_text(config))
    return SiteConfig.load(home / "site.yaml")


def test_a_folder_becomes_a_cohort_that_is_read_once(
    scans: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = _site(scans, tmp_path)
    assert (len(site.train), len(site.validation)) == (2, 1)
    first = cohort.load_split(site, "train")
    assert [case.case_id for case in first] == list(site.train)
    assert all(case.dose_gy is not None and case.beam_plate is not None for case in first)
    kept = sorted((tmp_path / "cache" / "cases").glob("*.npz"))
    assert len(kept) == 2
    assert (tmp_path / "cache" / "cases").stat().st_mode & 0o077 == 0
    monkeypatch.setattr(dicom_cohort, "read_case", None)  # not asked for a second time
    again = cohort.load_case(site, site.train[0])
    assert again.dose_gy is not None
    assert first[0].dose_gy is not None
    assert np.array_equal(again.dose_gy, first[0].dose_gy)


def test_another_plan_leaves_its_patient_on_the_same_side(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    sides = []
    for plan in ("0", "1"):
        cases = tuple(f"{number:012x}_{plan}" for number in range(40))
        monkeypatch.setattr(dicom_cohort, "trainable", lambda *_, cases=cases: cases)
        site = find_dicom_site("north", tmp_path, Pseudonyms(b"s" * 32), tmp_path)
        sides.append([{case.partition("_")[0] for case in side} for side in (site.train, site.validation)])
        assert all(case.endswith(f"_{plan}") for case in (*site.train, *site.validation))
    assert sides[0] == sides[1]
    assert 0 < len(sides[0][1]) < 20


def test_what_is_kept_holds_nothing_of_the_record(scans: Path, tmp_path: Path) -> None:
    site = _site(scans, tmp_path)
    cohort.load_case(site, site.train[0])
    (kept,) = (tmp_path / "cache" / "cases").glob("*.npz")
    with np.load(kept) as archive:
        content = b"".join(archive[key].tobytes() for key in archive.files)
    for secret in (b"Phantom", b"PHANTOM", b"1.2.826", b"19700101", str(scans).encode()):
        assert secret not in content
    assert load_case(kept).case_id == site.train[0]


def test_a_changed_file_or_rule_is_read_again_and_a_damaged_copy_replaced(scans: Path, tmp_path: Path) -> None:
    site = _site(scans, tmp_path)
    case_id = site.train[0]
    assert "Parotid_L" in cohort.load_case(site, case_id).structures
    assert site.names is not None
    site.names.write_text("ignore: [Parotid_L]")
    assert "Parotid_L" not in cohort.load_case(site, case_id).structures
    (kept,) = (tmp_path / "cache" / "cases").glob("*.npz")  # the older one went
    kept.write_bytes(b"damaged")
    assert "Parotid_L" not in cohort.load_case(site, case_id).structures
    assert len(kept.read_bytes()) > 1000


def test_an_unknown_case_and_an_empty_folder(scans: Path, tmp_path: Path) -> None:
    site = _site(scans, tmp_path)
    with pytest.raises(InputError, match="case nobody_0: no such study"):
        cohort.load_case(site, "nobody_0")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="of 0 studies in 0 files none"):
        find_dicom_site("north", tmp_path / "empty", Pseudonyms.temporary(), tmp_path)


def test_a_kept_case_that_another_process_replaces_meanwhile(
    scans: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = _site(scans, tmp_path)
    case_id = site.train[0]

    def replaced(path: Path) -> Case:
        path.unlink()
        raise InputError("damaged")

    # The other process took away what this one had seen: an older copy, then a damaged one.
    monkeypatch.setattr(Path, "glob", lambda folder, pattern: iter([folder / "older.npz"]))
    assert cohort.load_case(site, case_id).case_id == case_id
    monkeypatch.setattr("client.data.case_files.load_case", replaced)
    assert cohort.load_case(site, case_id).case_id == case_id
