"""Damages DICOM files as disks, exporters and attackers do, and reads the study of each damaged file.

Each damaged file takes the place of a good one in a small phantom study that lies beside an undamaged study. Reading
must end in a Case or in one clear line, and the undamaged study must stay as it was.
"""

from __future__ import annotations

import io
import resource
import shutil
import time
import zlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pydicom
from pydicom.filebase import DicomBytesIO
from pydicom.uid import DeflatedExplicitVRLittleEndian

from client.dicom.find import find_studies
from client.dicom.study import read_case
from client.dicom.worker import worker
from client.site.pseudonyms import Pseudonyms
from shared_model.core.errors import FedKT3DError, InputError
from simulations.phantom.dicom import write_study
from simulations.phantom.dicom_files import Identity
from simulations.phantom.hospitals import STYLES, phantom_case
from simulations.phantom.planes import Scan

Damage = Callable[[bytes, np.random.Generator], bytes]
_VRS = (b"UI", b"DS", b"SQ", b"OW", b"US", b"UN", b"LO", b"FD", b"ZZ", b"AT")
_SEQUENCE_START = b"\x06\x30\x39\x00SQ\0\0\xff\xff\xff\xff"  # ROIContourSequence, undefined length
_ITEM_START = b"\xfe\xff\x00\xe0\xff\xff\xff\xff"
# A search that takes longer counts as hanging.
MAX_SECONDS = 10.0
_LARGE = ("4294967295", "65535", "999999999", "-1", "1e308", "nan", "")


def truncate(content: bytes, rng: np.random.Generator) -> bytes:
    """Cut the end of the file off."""
    return content[: int(rng.integers(0, len(content)))]


def flip_bits(content: bytes, rng: np.random.Generator) -> bytes:
    """Flip a few bits."""
    changed = bytearray(content)
    for at in rng.integers(len(changed), size=int(rng.integers(1, 12))):
        changed[at] ^= 1 << int(rng.integers(8))
    return bytes(changed)


def splice(content: bytes, rng: np.random.Generator) -> bytes:
    """Copy a part of the file over or into another part."""
    start, stop = sorted(rng.integers(len(content), size=2))
    at = int(rng.integers(len(content)))
    part = content[start : start + min(int(stop - start), 4096)]
    return content[:at] + part + content[at + len(part) * int(rng.integers(2)) :]


def wrong_vr(content: bytes, rng: np.random.Generator) -> bytes:
    """Value representations that are not the element's own."""
    changed = bytearray(content)
    places = [i for vr in _VRS[:-2] for i in _all(content, vr)]
    for at in rng.choice(places, size=min(len(places), int(rng.integers(1, 6)))) if places else ():
        changed[at : at + 2] = _VRS[int(rng.integers(len(_VRS)))]
    return bytes(changed)


def _all(content: bytes, part: bytes) -> list[int]:
    found, at = [], content.find(part, 132)
    while at >= 0:
        found.append(at)
        at = content.find(part, at + 1)
    return found


def huge_length(content: bytes, rng: np.random.Generator) -> bytes:
    """A length of gigabytes, or an undefined one."""
    changed = bytearray(content)
    at = int(rng.integers(132, len(changed) - 8))
    places = [i for vr in (b"SQ", b"OW", b"UN") for i in _all(content, vr)]
    at = int(rng.choice(places)) + 4 if places and rng.random() < 0.7 else at
    changed[at : at + 4] = (b"\xff\xff\xff\xff", b"\xfe\xff\xff\x7f", b"\x00\x00\x00\x80")[int(rng.integers(3))]
    return bytes(changed)


def huge_count(content: bytes, rng: np.random.Generator) -> bytes:
    """Rows, frames, points or positions that no patient has."""
    dataset = pydicom.dcmread(io.BytesIO(content))
    keys = ("Rows", "Columns", "BitsAllocated", "SamplesPerPixel")
    texts = (
        "NumberOfFrames",
        "PixelSpacing",
        "ImagePositionPatient",
        "DoseGridScaling",
        "RescaleSlope",
        "SliceThickness",
    )
    key = str(rng.choice([k for k in (*keys, *texts) if k in dataset] or ["PatientID"]))
    value = _LARGE[int(rng.integers(len(_LARGE)))]
    if key in keys:
        setattr(dataset, key, int(rng.choice([0, 1, 7, 64, 65535])))
    else:
        many = isinstance(dataset[key].value, pydicom.multival.MultiValue)
        with pydicom.config.disable_value_validation():
            dataset[key]._value = [value] * len(dataset[key].value) if many else value
    return _bytes(dataset)


def _bytes(dataset: pydicom.Dataset) -> bytes:
    stream = io.BytesIO()
    with pydicom.config.disable_value_validation():
        try:
            dataset.save_as(stream, enforce_file_format=False)
        except Exception:  # a value that pydicom does not write: leave the file as it was
            return b"\0" * 128 + b"DICM" + b"\0" * 8
    return stream.getvalue()


def nest(content: bytes, rng: np.random.Generator) -> bytes:
    """Nest sequences very deeply within one another."""
    depth = int(rng.choice([50, 500, 5000, 100_000]))
    return content + (_SEQUENCE_START + _ITEM_START) * depth


def many_items(content: bytes, rng: np.random.Generator) -> bytes:
    """Millions of empty items in a sequence."""
    count = int(rng.choice([10_000, 300_000, 2_000_000]))
    return content + _SEQUENCE_START + b"\xfe\xff\x00\xe0\x00\x00\x00\x00" * count + b"\xfe\xff\xdd\xe0\0\0\0\0"


def zip_bomb(content: bytes, rng: np.random.Generator) -> bytes:
    """A deflated data set that inflates to as much as gigabytes of zeros, or of empty items."""
    dataset = pydicom.dcmread(io.BytesIO(content), stop_before_pixels=True)
    dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    head = _meta(dataset)
    squeeze = zlib.compressobj(6, zlib.DEFLATED, -zlib.MAX_WBITS)
    filler = (b"\0" * 8, b"\xfe\xff\x00\xe0\0\0\0\0")[int(rng.integers(2))] * 2**17
    body = squeeze.compress(_SEQUENCE_START)
    for _ in range(int(rng.choice([8, 64, 400, 2000], p=[0.5, 0.3, 0.18, 0.02]))):
        body += squeeze.compress(filler)
    return head + body + squeeze.flush()


def _meta(dataset: pydicom.Dataset) -> bytes:
    stream = DicomBytesIO()
    stream.write(b"\0" * 128 + b"DICM")
    pydicom.filewriter.write_file_meta_info(stream, dataset.file_meta, enforce_standard=True)
    return stream.getvalue()


def path_like(content: bytes, rng: np.random.Generator) -> bytes:
    """Identifiers that are paths, commands or markup."""
    texts = (
        b"../../../etc/passwd",
        b"/dev/zero",
        b"..\\..\\windows",
        b"<script>x</script>",
        b"a;rm -rf /",
        b"%s%n\0\x1b[2J",
    )
    changed = content
    places = _all(content, b"1.2.826.0.1.")
    for at in rng.choice(places, size=min(len(places), 3)) if places else ():
        text = texts[int(rng.integers(len(texts)))]
        changed = changed[:at] + text + changed[at + len(text) :]
    return changed


def foreign(content: bytes, rng: np.random.Generator) -> bytes:
    """No DICOM at all, or only its first bytes."""
    kind = int(rng.integers(4))
    noise = rng.integers(0, 256, size=int(rng.integers(1, 5000)), dtype=np.uint8).tobytes()
    return (b"", noise, b"\0" * 128 + b"DICM" + noise, content[:132] + noise)[kind]


DAMAGES: tuple[Damage, ...] = (
    truncate,
    flip_bits,
    splice,
    wrong_vr,
    huge_length,
    huge_count,
    nest,
    many_items,
    zip_bomb,
    path_like,
    foreign,
)
# Bombs take seconds each to be refused; they come less often.
_SHARES = np.array([4, 5, 4, 4, 3, 4, 0.5, 0.15, 0.15, 2, 1])


@dataclass
class FuzzReport:
    """What a run of damaged files gave; ``faults`` must be empty. ``beside``: searches of both studies that gave the
    undamaged one whole, ``read``: Cases that came of a damaged one."""

    files: int = 0
    damages: Counter[str] = field(default_factory=Counter)
    read: int = 0
    beside: int = 0
    lines: Counter[str] = field(default_factory=Counter)
    slowest_s: float = 0.0
    slowest: str = ""
    faults: list[str] = field(default_factory=list)

    def memory_mb(self) -> tuple[float, float]:
        """Greatest resident size (MB) of this process and of any reading process; the running one is ended."""
        worker().close()  # the system tells of those that have ended
        own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
        return own, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1e3


def damaged_cohort(folder: Path, files: int, seed: int, check_every: int = 10) -> FuzzReport:
    """Read ``files`` damaged files one after another, in a study beside a good one, both below ``folder``.

    Every ``check_every`` files, and after the last, both are searched together.
    """
    style = STYLES["openkbp_like"]
    good, bad = folder / "good", folder / "bad"
    for index, place in enumerate((good, bad)):
        case = phantom_case(index, style, (12, 12, 12))
        write_study(place, case, Scan(), Identity.of_phantom(seed, index), style.plan.gantry_deg)
    originals = {path: path.read_bytes() for path in sorted(bad.rglob("*.dcm"))}
    others = [path for path in originals if path.parent != bad]
    parts = [path for path in originals if path.parent == bad] * 4 + others[:4]
    pseudonyms = Pseudonyms(bytes(32))
    good_id = find_studies(good, pseudonyms).studies[0].case_id
    report = FuzzReport()
    for number in range(files):
        rng = np.random.default_rng([seed, number])
        damage = DAMAGES[int(rng.choice(len(DAMAGES), p=_SHARES / _SHARES.sum()))]
        path = parts[int(rng.integers(len(parts)))]
        path.write_bytes(damage(originals[path], rng))
        started = time.perf_counter()
        _read(bad, pseudonyms, report, f"{damage.__name__} of {path.name} ({number})")
        seconds = time.perf_counter() - started
        report.damages[damage.__name__] += 1
        what = f"{damage.__name__} of {path.name} ({number})"
        if seconds > report.slowest_s:
            report.slowest_s, report.slowest = seconds, what
        if seconds > MAX_SECONDS:
            report.faults.append(f"{what}: {seconds:.1f} s; expected at most {MAX_SECONDS:g}")
        if number % check_every == 0 or number == files - 1:
            _both(folder, pseudonyms, good_id, report, what)
        path.write_bytes(originals[path])
    shutil.rmtree(folder, ignore_errors=True)
    return report


def _read(folder: Path, pseudonyms: Pseudonyms, report: FuzzReport, what: str) -> None:
    report.files += 1
    try:
        found = find_studies(folder, pseudonyms)
        for problem in found.problems:
            _line(problem.line(), report, what)
        for study in found.studies:
            try:
                read_case(study)
                report.read += 1
            except InputError as error:
                _line(str(error), report, what)
    except FedKT3DError as error:
        report.faults.append(f"{what}: the whole search ended: {error}")
    except Exception as error:
        report.faults.append(f"{what}: {type(error).__name__}: {error}")


def _line(text: str, report: FuzzReport, what: str) -> None:
    """Every refusal is one line without a word of the record."""
    report.lines[text.partition(": ")[2][:60]] += 1
    if "\n" in text or "Phantom" in text or "PHANTOM" in text or "1.2.826" in text or "/" in text.replace("I/O", ""):
        report.faults.append(f"{what}: not one clean line: {text!r}")


def _both(folder: Path, pseudonyms: Pseudonyms, case_id: str, report: FuzzReport, what: str) -> None:
    """Whether the undamaged study is found and read whole in a search of the folder of both."""
    try:
        reading = read_case(find_studies(folder, pseudonyms).study(case_id))
    except FedKT3DError as error:
        report.faults.append(f"the undamaged study was lost beside {what}: {error}")
        return
    if reading.case.dose_gy is None or reading.case.beam_plate is None or reading.notes:
        report.faults.append(f"the undamaged study was not whole beside {what}")
        return
    report.beside += 1
