"""`client check`: every kind of data gives one table; what is wrong is said with what to do, and no one is named."""

from __future__ import annotations

import errno
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from client.cli import app
from client.data.case_files import save_case
from client.data.kinds import find_kind
from client.setup import check as preflight
from client.setup import check_machine, check_patients, enrol
from client.setup.check_patient import examine
from client.setup.check_patients import Source, look
from client.setup.findings import FAIL, OK, WARN
from client.site.config import DICOM, SiteConfig
from client.site.home import ClientHome
from shared_model.core.errors import InputError
from shared_model.patient.case import Case
from shared_model.patient.geometry import Grid
from tests.builders.consortium import Consortium
from tests.builders.small_study import ellipsoid_case, write_small_study


def write_cases(folder: Path, cases: dict[str, Case]) -> Path:
    for name, case in cases.items():
        save_case(folder / f"{name}.npz", replace(case, case_id=name))
    return folder


def moved(case: Case, by: float) -> Case:
    """Another patient: the same anatomy with other images and another dose."""
    assert case.ct_hu is not None
    assert case.dose_gy is not None
    dose = (case.dose_gy * np.float32(1 + by / 100)).astype(np.float32)
    return replace(case, ct_hu=case.ct_hu + np.float32(by), dose_gy=dose)


@pytest.fixture(scope="module")
def base() -> Case:
    return ellipsoid_case()


@pytest.fixture
def folder(tmp_path: Path, base: Case) -> Path:
    """Two good patients, and one of each fault."""
    assert base.dose_gy is not None
    write_cases(
        tmp_path,
        {
            "good_1": base,
            "good_2": moved(base, 1),
            "no_dose": replace(moved(base, 2), dose_gy=None),
            "no_ct": replace(moved(base, 3), ct_hu=None),
            "no_target": replace(
                moved(base, 4), structures={"SpinalCord": base.structures["SpinalCord"]}, prescriptions_gy={}
            ),
            "fraction": replace(base, dose_gy=base.dose_gy / np.float32(35)),
            "twin": base,
            "same_ct": replace(base, dose_gy=base.dose_gy * np.float32(0.99)),
        },
    )
    content = (tmp_path / "good_1.npz").read_bytes()
    (tmp_path / "cut.npz").write_bytes(content[: len(content) // 2])
    (tmp_path / "renamed.npz").write_bytes(content)
    (tmp_path / "Doe John 1950.npz").write_bytes(content)
    return tmp_path


def test_each_fault_is_named_with_what_to_do_and_the_rest_is_usable(folder: Path) -> None:
    rows = {row.patient: row for row in look(Source(kind="cases", root=folder), None).patients}
    assert {name for name, row in rows.items() if row.usable} == {"good_1", "good_2", "same_ct"}
    expected = {
        "no_dose": "no dose", "no_ct": "no CT", "no_target": "no target", "cut": "truncated",
        "fraction": "does not fit the prescription", "twin": "same content as good_1", "renamed": "another name",
    }  # fmt: skip
    for name, text in expected.items():
        row = rows[name]
        assert any(text in why for why in row.why), row
        assert len(row.why) == len(row.todo)
        assert all(row.todo)
    assert any("same CT as" in note for note in rows["same_ct"].notes)
    (odd,) = [row for name, row in rows.items() if name.startswith("file_")]
    assert "pseudonym" in odd.why[0]


def test_nothing_names_a_file_or_a_path_unless_asked(folder: Path) -> None:
    report = preflight.check(Source(kind="cases", root=folder), None, None)
    told = json.dumps(report.record(show_ids=False)) + preflight.page(report, show_ids=False).html()
    told += "\n".join(preflight.lines(report, show_ids=False))
    assert "Doe" not in told
    assert str(folder) not in told
    assert "Doe John" in json.dumps(report.record(show_ids=True))
    assert "Doe John" in preflight.page(report, show_ids=True).html()


def test_the_record_has_its_promised_shape(folder: Path) -> None:
    report = preflight.check(Source(kind="cases", root=folder), None, None)
    record = report.record(show_ids=False)
    assert record["usable"] == 3
    assert len(record["patients"]) == 11
    for row in record["patients"]:
        assert {"patient", "usable", "why", "todo", "notes"} <= set(row)
    assert record["cohort"]["patients"] == 3
    assert record["cohort"]["structures"]["SpinalCord"] == 3
    assert record["cohort"]["prescriptions"] == {"70.0": 3}
    assert record["cohort"]["spans"]["slice_mm"] == [5.0, 5.0, 5.0]
    assert {finding["check"] for finding in record["checks"]} == {"disk", "memory", "device", "clock service"}
    device = next(finding for finding in record["checks"] if finding["check"] == "device")
    assert re.search(r"CPU cores in (bf16|float32)|^cuda", device["found"])
    assert record["ready"] is True


@pytest.mark.e2e
def test_several_processes_say_what_one_says(tmp_path: Path, base: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("client.setup.check_patients.FEW", 4)
    write_cases(tmp_path, {f"p_{k}": moved(base, k) for k in range(9)})
    source = Source(kind="cases", root=tmp_path)
    seen: list[tuple[int, int]] = []
    one, two = look(source, None, 1), look(source, None, 2, lambda done, total: seen.append((done, total)))
    assert one == two
    assert seen == [(k, 9) for k in range(1, 10)]


def test_dicom_studies_and_their_bad_files(tmp_path: Path) -> None:
    for index in range(2):
        write_small_study(tmp_path / f"Doe^John {index}", index)
    (tmp_path / "notes.txt").write_text("no DICOM")
    broken = tmp_path / "Doe^John 0" / "broken.dcm"
    broken.write_bytes((tmp_path / "Doe^John 0" / "rp.dcm").read_bytes()[:400])
    assert find_kind(tmp_path) == DICOM
    report = preflight.check(Source(kind=DICOM, root=tmp_path), None, None)
    record = report.record(show_ids=False)
    assert record["usable"] == 2
    assert [row["plates"] for row in record["patients"]] == [True, True]
    assert len(record["files"]["problems"]) == 1
    assert "Doe" not in json.dumps(record)
    assert "PHANTOM" not in json.dumps(record)
    assert "PHANTOM" in json.dumps(report.record(show_ids=True))


def test_the_kind_is_found_and_a_wrong_one_refused(tmp_path: Path, base: Case) -> None:
    write_cases(tmp_path, {"a": base})
    assert find_kind(tmp_path) == "cases"
    (tmp_path / "half64").mkdir()
    assert find_kind(tmp_path) == "openkbp"
    for wrong in ("nothing", "openkbp128"):
        with pytest.raises(InputError):
            look(Source(kind=wrong, root=tmp_path), None)
    with pytest.raises(InputError, match="no such folder"):
        find_kind(tmp_path / "x")


def test_low_coverage_is_told_and_does_not_exclude(base: Case) -> None:
    assert base.dose_gy is not None
    row = examine(replace(base, dose_gy=base.dose_gy * np.float32(0.85)), None)
    assert row.usable
    assert any("D95 is" in note for note in row.notes)
    for factor in (0.7, 1.4):
        assert not examine(replace(base, dose_gy=base.dose_gy * np.float32(factor)), None).usable


@pytest.fixture
def home(tmp_path: Path, base: Case) -> ClientHome:
    """A site that has keys and is not admitted."""
    names = "abcdefghijklmno"  # of fifteen three are held back
    data = write_cases(tmp_path / "data", {name: moved(base, k) for k, name in enumerate(names)})
    invitation = tmp_path / "north.invitation"
    invitation.write_bytes(Consortium().invitation("north").to_json())
    return enrol.create(invitation, tmp_path / "home", enrol.Data(kind="cases", root=data, site_config=None))


def findings(home: ClientHome, usable: int = 2) -> dict[str, check_machine.Finding]:
    return {finding.check: finding for finding in check_machine.site(home, usable, offline=True)}


def test_a_home_is_looked_through(home: ClientHome) -> None:
    found = findings(home)
    assert found["keys"].state == OK
    assert (found["admission"].state, "client join" in found["admission"].todo) == (FAIL, True)
    assert found["site.yaml"].state == OK
    config = SiteConfig.load(home.site_config)
    replace(config, validation=config.validation[:2]).save(home.site_config)
    few = findings(home)["site.yaml"]
    assert (few.state, "list 3 or more under validation" in few.todo) == (WARN, True)
    assert found["plan"].state == WARN
    home.node_key.chmod(0o644)
    assert "chmod 600" in findings(home)["keys"].todo
    home.identity_key.unlink()
    assert findings(home)["keys"].state == FAIL
    home.policy.write_text(home.policy.read_text().replace("least_patients: 1", "least_patients: 20"))
    assert findings(home)["policy.yaml"].state == FAIL
    home.policy.write_text("schema: 7\n")
    assert findings(home)["policy.yaml"].state == FAIL


def test_a_coordinator_that_is_not_there_is_said_with_what_to_do(home: ClientHome) -> None:
    gone = replace(home, server="127.0.0.1:9")
    (finding,) = [f for f in check_machine.site(gone, 2, offline=False) if f.check == "coordinator"]
    assert finding.state == FAIL
    assert "server start" in finding.todo


def test_the_command_before_there_is_a_home(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "report" / "check.html"
    arguments = ["check", "--data", str(folder), "--workers", "1", "--json", "--html", str(page)]
    assert app(arguments, standalone_mode=False) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["usable"] == 3
    assert page.read_text().startswith("<!doctype html>")
    empty = tmp_path / "empty"
    empty.mkdir()
    assert app(["check", "--data", str(empty), "--json"], standalone_mode=False) == 2
    assert json.loads(capsys.readouterr().out)["usable"] == 0
    with pytest.raises(InputError, match="--data"):
        app(["check"], standalone_mode=False)


def test_fine_voxels_are_judged_as_they_would_be_predicted(base: Case) -> None:
    from shared_model.adapter.envelope import Envelope

    envelope = Envelope.of_bundled()
    assert envelope is not None
    (nz, ny, nx), (z, y, x) = base.grid.shape, base.grid.spacing_mm
    twice = replace(
        base,
        grid=Grid((2 * nz, 2 * ny, 2 * nx), (z / 2, y / 2, x / 2)),
        body=doubled(base.body),
        structures={name: doubled(mask) for name, mask in base.structures.items()},
        ct_hu=doubled(base.ct_hu),
        dose_gy=doubled(base.dose_gy),
    )
    notes = examine(twice, envelope).notes
    assert notes == examine(base, envelope).notes
    assert not any("pixels" in note for note in notes)


def doubled(volume: np.ndarray | None) -> np.ndarray:
    """The same on voxels of half the size."""
    assert volume is not None
    return volume.repeat(2, 0).repeat(2, 1).repeat(2, 2)


def test_patients_are_read_one_by_one_where_dev_shm_is_full(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Locks between processes lie there. `client check` ended with "a fault of ours: OSError"."""

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(check_patients, "FEW", 1)
    monkeypatch.setattr(check_patients, "ProcessPoolExecutor", full)
    monkeypatch.setattr(check_patients.os, "cpu_count", lambda: 4)
    found = look(Source(kind="cases", root=folder), None, 4)
    assert {row.patient for row in found.patients} >= {"good_1", "good_2", "no_dose"}
