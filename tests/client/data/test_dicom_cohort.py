"""DICOM studies as a site's cohort: init, what is kept, forget; and no identifier of the record in any of it."""

from __future__ import annotations

import json
import logging
import re
import stat
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import pytest
from flwr.app import Context, Metadata, RecordDict
from flwr.common.serde import message_to_proto
from pydicom.datadict import DicomDictionary, keyword_for_tag
from pydicom.dataset import Dataset

from client.data.load import load_case, load_split
from client.names import tg263
from client.prediction.files import write_answer
from client.prediction.predict import Predictor, Sampled
from client.prediction.subject import load_subject
from client.setup import check as preflight
from client.setup import enrol
from client.setup.check_patients import Source
from client.setup.forget import forget, forgotten
from client.site.config import DICOM, SiteConfig
from client.site.home import ClientHome
from client.site.pseudonyms import Pseudonyms
from privacy.flower.internals.envelopes import make_message
from shared_model.core.errors import InputError
from tests.builders.consortium import Consortium
from tests.builders.small_study import ellipsoid_case, write_small_study

# What a study cannot be read without; anything else may hold anything.
NEEDED = {
    "SpecificCharacterSet", "TransferSyntaxUID", "MediaStorageSOPClassUID", "SOPClassUID", "Modality", "ImageType",
    "PatientPosition", "RescaleType", "PhotometricInterpretation", "DoseUnits", "DoseType", "DoseSummationType",
    "RTROIInterpretedType", "ContourGeometricType", "ROIName", "DoseReferenceType", "DoseReferenceStructureType",
    "TreatmentDeliveryType", "RadiationType", "BeamType", "GantryRotationDirection", "RTPlanGeometry",
    "PatientID", "PixelPaddingValue", "CodingSchemeDesignator", "ApprovalStatus",
}  # fmt: skip
# Text in the standard's sense (PS3.5 section 6.2), with a value that is found again.
MARK = "ZQXCANARY"
VALUES = {
    "PN": f"{MARK}^Name", "LO": f"{MARK} lo", "SH": f"{MARK}sh", "LT": f"{MARK} lt", "ST": f"{MARK} st",
    "UT": f"{MARK} ut", "UC": f"{MARK} uc", "UR": f"http://{MARK}", "CS": MARK, "AE": MARK, "DA": "18990203",
    "DT": "18990203040506.123", "TM": "040506.123987", "AS": "123Y",
}  # fmt: skip
PICTURE = re.compile(rb"data:image/png;base64,[A-Za-z0-9+/=]*")
FOUND = (MARK, "18990203", "040506.123987", "123Y")


def marked(path: Path) -> set[str]:
    """Put a mark into every text attribute of the dictionary that reading does not need; returns the file's own ids."""
    dataset = pydicom.dcmread(path)
    own = {str(dataset.get(k)) for k in ("PatientID", "PatientName", "SOPInstanceUID", "SeriesInstanceUID")}
    own |= {str(dataset.get(k)) for k in ("StudyInstanceUID", "FrameOfReferenceUID")}
    inner = Dataset()
    inner.PatientName, inner.InstitutionName, inner.StudyDate = VALUES["PN"], VALUES["LO"], VALUES["DA"]
    for tag, (vr, _, _, retired, keyword) in DicomDictionary.items():
        if tag >> 16 < 8 or keyword in NEEDED or retired or not keyword:
            continue
        if vr in VALUES:
            dataset.add_new(tag, vr, VALUES[vr])
        elif vr == "SQ" and tag not in dataset and tag >> 16 in (0x0008, 0x0010, 0x0040):
            dataset.add_new(tag, vr, [inner])
    if "StructureSetROISequence" in dataset:
        dataset.ROIContourSequence[0].ROIDisplayColor = [1, 2, 3]
        for item in dataset.StructureSetROISequence:
            item.ROIDescription = VALUES["ST"]
    dataset.save_as(path)
    return own - {"None", ""}


@pytest.fixture(scope="module")
def studies(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, set[str]]:
    """Four patients whose files hold a mark wherever they can, and the identifiers that they have besides."""
    root = tmp_path_factory.mktemp(f"{MARK}_archive")
    identifiers: set[str] = set()
    for index in range(4):
        write_small_study(root / f"{MARK}^{index}", index)
    for path in root.rglob("*.dcm"):
        # All slices of a CT have the same attributes: some are enough.
        if path.parent.name != "CT" or path.stem.endswith("0"):
            identifiers |= marked(path)
    return root, identifiers


@pytest.fixture
def home(studies: tuple[Path, set[str]], tmp_path: Path) -> ClientHome:
    invitation = tmp_path / "north.invitation"
    invitation.write_bytes(Consortium().invitation("north").to_json())
    made = enrol.create(invitation, tmp_path / "home", enrol.Data(kind=DICOM, root=studies[0], site_config=None))
    # Who is held back goes by a salt that is drawn anew; of four patients it may be nobody.
    config = SiteConfig.load(made.site_config)
    cases = sorted((*config.train, *config.validation))
    replace(config, train=tuple(cases[:3]), validation=tuple(cases[3:])).save(made.site_config)
    return made


def test_init_lists_every_study(home: ClientHome) -> None:
    config = SiteConfig.load(home.site_config)
    assert (len(config.train), len(config.validation)) == (3, 1)
    assert config.pseudonyms is not None
    assert stat.S_IMODE(config.pseudonyms.stat().st_mode) == 0o600
    assert SiteConfig.load(home.site_config) == config
    cases = load_split(config, "train")
    assert [case.case_id for case in cases] == list(config.train)
    assert all(case.dose_gy is not None and case.beam_plate is not None for case in cases)


def test_a_study_is_read_once(home: ClientHome, monkeypatch: pytest.MonkeyPatch) -> None:
    config = SiteConfig.load(home.site_config)
    first = load_case(config, config.train[0])
    monkeypatch.setattr("client.data.dicom_cohort.read_case", lambda *_: pytest.fail("read again"))
    second = load_case(config, config.train[0])
    assert first.dose_gy is not None
    assert second.dose_gy is not None
    np.testing.assert_array_equal(first.dose_gy, second.dose_gy)
    assert first.prescriptions_gy == second.prescriptions_gy
    assert config.cache is not None
    assert stat.S_IMODE((config.cache / "cases").stat().st_mode) == 0o700


def test_it_is_read_again_by_another_table_of_names(home: ClientHome, monkeypatch: pytest.MonkeyPatch) -> None:
    """A newer version may know names that this one left out: what was kept without them must not be used."""
    config = SiteConfig.load(home.site_config)
    load_case(config, config.train[0])
    monkeypatch.setitem(tg263._SYNONYMS, "rueckenmark", "SpinalCord")

    def refuse(*_: object) -> None:
        raise InputError("read again")

    monkeypatch.setattr("client.data.dicom_cohort.read_case", refuse)
    with pytest.raises(InputError, match="read again"):
        load_case(config, config.train[0])


# Some of PS3.15 table E.1-1 by hand, of each of its groups: the dictionary's own test.
BASIC_PROFILE = [
    *("PatientName", "PatientAddress", "OtherPatientNames", "PatientMotherBirthName", "PatientTelephoneNumbers"),
    *("EthnicGroup", "Occupation", "PatientComments", "AdditionalPatientHistory", "Allergies"),
    *("InstitutionName", "InstitutionAddress", "StationName", "DeviceSerialNumber", "ReferringPhysicianName"),
    *("PhysiciansOfRecord", "OperatorsName", "StudyDescription", "SeriesDescription", "ProtocolName", "ImageComments"),
    *("AccessionNumber", "StudyID", "ReviewerName", "RTPlanDescription"),
]


def everything_below(folder: Path) -> Iterator[tuple[str, bytes]]:
    """Names and contents of all files; of npz archives the arrays."""
    for path in folder.rglob("*"):
        yield "name", str(path.relative_to(folder)).encode()
        if path.suffix == ".npz":
            with np.load(path) as arrays:
                for key in arrays.files:
                    yield f"{path.name}:{key}", arrays[key].tobytes()
        elif path.is_file():
            yield path.name, path.read_bytes()


def asked(home: ClientHome) -> bytes:
    """The answer of the site's app to an evaluation, as the bytes that would be sent."""
    from client.app import app
    from privacy.wire.messages import EvaluateTask, Request, parse_reply, request
    from shared_model.adapter.manifest import initial_vector, manifest_hash
    from shared_model.network.spec import ModelSpec

    spec = ModelSpec(prior="none", shape=(16, 16, 16))
    task = EvaluateTask(round=1)
    content = request(
        Request(
            kind="evaluate", run_id="0" * 32, spec_json=spec.to_json(), manifest_hash=manifest_hash(spec), task=task,
            vector=initial_vector(spec),
        )
    )  # fmt: skip
    asking = make_message(metadata=Metadata(1, "m", 1, 7, "", "3", 0.0, 60.0, "evaluate"), content=content)
    node = {"site-config": str(home.site_config)}
    context = Context(run_id=1, node_id=7, node_config=node, state=RecordDict(), run_config={})
    answered = app(asking, context)
    assert parse_reply(answered.content).refusal is None
    return message_to_proto(answered).SerializeToString()


def test_no_identifier_survives_in_cache_home_reports_messages_or_logs(
    home: ClientHome, studies: tuple[Path, set[str]], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Every text attribute of the standard's dictionary, and with it all of PS3.15 table E.1-1, carries a mark."""
    root, identifiers = studies
    assert len(identifiers) > 20
    logging.getLogger("fedkt3d.site").setLevel(logging.DEBUG)
    config = SiteConfig.load(home.site_config)
    load_split(config, "train")
    sent = asked(home)
    report = preflight.check(Source(kind=DICOM, root=root, pseudonyms=Pseudonyms.temporary()), None, None)
    assert report.usable == 4
    told = json.dumps(report.record(show_ids=False)) + preflight.page(report, show_ids=False).html()
    predictor = Predictor()
    subject = load_subject(next(root.iterdir()))
    answer = predictor.predict(subject.case, Sampled(samples=2), subject.notes)
    write_answer(tmp_path / "out", answer, predictor, subject.origin)
    dose = tmp_path / "out" / "dose.dcm"  # it goes back to the hospital, and names the patient
    assert MARK.encode() in dose.read_bytes()
    dose.unlink()
    # The site's own file says where the hospital keeps its studies.
    home.site_config.write_text(home.site_config.read_text().replace(str(root.resolve()), "ROOT"))
    places = [*everything_below(home.folder), *everything_below(tmp_path / "out"), ("reply", sent)]
    places += [("check", told.encode()), ("screen", "".join(capfd.readouterr()).encode())]
    assert len(places) > 40
    for where, content in places:
        searched = PICTURE.sub(b"", content)  # four letters of an age stand in a compressed picture by chance
        for trace in (*FOUND, *identifiers):
            assert trace.encode() not in searched, (where, trace)


def test_the_marks_cover_the_basic_profile(studies: tuple[Path, set[str]]) -> None:
    """Attributes of PS3.15 table E.1-1 that no test of ours may forget to mark."""
    path = next(studies[0].rglob("rp.dcm"))
    text = "\n".join(str(element) for element in pydicom.dcmread(path))
    keywords = [keyword_for_tag(element.tag) for element in pydicom.dcmread(path) if MARK in str(element.value)]
    missing = [keyword for keyword in BASIC_PROFILE if keyword not in keywords]
    assert missing == []
    assert text.count(MARK) > 300


def test_forget_takes_a_patient_off_and_says_what_stays(home: ClientHome) -> None:
    config = SiteConfig.load(home.site_config)
    load_split(config, "train")
    gone, kept = config.train[0], config.train[1]
    assert config.cache is not None
    done = forget(home, gone.partition("_")[0])
    assert done.cases == (gone,)
    assert done.deleted == 1
    after = SiteConfig.load(home.site_config)
    assert gone not in (*after.train, *after.validation)
    assert after.train == config.train[1:]
    names = [path.stem.rpartition("-")[0] for path in (config.cache / "cases").rglob("*.npz")]
    assert kept in names
    assert gone not in names
    assert list(forgotten(home.folder)) == [gone.partition("_")[0]]
    assert any("cannot be taken back" in line for line in done.stays)
    report = preflight.check(
        Source(kind=DICOM, root=after.root, pseudonyms=Pseudonyms.from_file(after.pseudonyms)), home, None, offline=True
    )
    (row,) = [row for row in report.looked.patients if row.patient == gone]
    assert not row.usable
    assert "forgotten" in row.why[0]
    with pytest.raises(InputError, match="no case of"):
        forget(home, gone)
    with pytest.raises(InputError, match="no case of"):
        forget(home, "..")
    for case in (*after.train, *after.validation)[:-1]:
        forget(home, case)
    with pytest.raises(InputError, match="client leave"):
        forget(home, (*after.train, *after.validation)[-1])


def test_case_files_of_another_patient_with_a_longer_name_stay(tmp_path: Path) -> None:
    from client.data.case_files import save_case

    for name in ("p_1", "p_10", "p_1_2"):
        save_case(tmp_path / "data" / f"{name}.npz", ellipsoid_case(name))
    invitation = tmp_path / "north.invitation"
    invitation.write_bytes(Consortium().invitation("north").to_json())
    data = enrol.Data(kind="cases", root=tmp_path / "data", site_config=None)
    made = enrol.create(invitation, tmp_path / "home", data)
    assert forget(made, "p_1").cases == ("p_1",)
    assert len(list((tmp_path / "data").glob("*.npz"))) == 3  # the hospital's own files are not ours to delete
