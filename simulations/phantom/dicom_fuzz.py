"""Damages to DICOM files as disks, exporters and attackers make them: bytes in, bytes out.

simulations/benchmarks/dicom_damage.py reads studies of files damaged in these ways.
"""

from __future__ import annotations

import copy
import io
import zlib
from collections.abc import Callable

import numpy as np
import pydicom
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pydicom.uid import DeflatedExplicitVRLittleEndian
from pydicom.valuerep import format_number_as_ds

Damage = Callable[[bytes, np.random.Generator], bytes]
_VRS = (b"UI", b"DS", b"SQ", b"OW", b"US", b"UN", b"LO", b"FD", b"ZZ", b"AT")
_SEQUENCE_START = b"\x06\x30\x39\x00SQ\0\0\xff\xff\xff\xff"  # ROIContourSequence, undefined length
_ITEM_START = b"\xfe\xff\x00\xe0\xff\xff\xff\xff"
_WORDS = (
    *("OPEN_PLANAR", "OPEN_NONPLANAR", "POINT", "INTERPOLATED_PLANAR", "CLOSED_PLANAR", "REJECTED", "VERIFICATION"),
    *("BEAM", "FRACTION", "PLAN", "RELATIVE", "CGY", "ERROR", "NONE", "", "LOCALIZER", "HFP", "FFS", "\xe4", "A" * 40),
)
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
    head = meta_bytes(dataset)
    squeeze = zlib.compressobj(6, zlib.DEFLATED, -zlib.MAX_WBITS)
    filler = (b"\0" * 8, b"\xfe\xff\x00\xe0\0\0\0\0")[int(rng.integers(2))] * 2**17
    body = squeeze.compress(_SEQUENCE_START)
    for _ in range(int(rng.choice([8, 64, 400, 2000], p=[0.5, 0.3, 0.18, 0.02]))):
        body += squeeze.compress(filler)
    return head + body + squeeze.flush()


def meta_bytes(dataset: pydicom.Dataset) -> bytes:
    """Preamble and file meta information."""
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


def bare(content: bytes, rng: np.random.Generator) -> bytes:
    """The data set without preamble and meta header, as some systems write it; in half of the cases some bits flip."""
    stream = DicomBytesIO()
    stream.is_implicit_VR, stream.is_little_endian = bool(rng.integers(2)), True
    dataset = pydicom.dcmread(io.BytesIO(content))
    write_dataset(stream, pydicom.Dataset({element.tag: element for element in dataset}))
    body = stream.getvalue()
    return flip_bits(body, rng) if rng.integers(2) else body


def other_words(content: bytes, rng: np.random.Generator) -> bytes:
    """One code word, wherever it stands, is another: of contours, approval, summation, units, or of no standard."""
    dataset = pydicom.dcmread(io.BytesIO(content))
    codes = [element for element in dataset.iterall() if element.VR == "CS"]
    code = codes[int(rng.integers(len(codes)))]
    with pydicom.config.disable_value_validation():
        code._value = _WORDS[int(rng.integers(len(_WORDS)))]
    return _bytes(dataset)


def odd_structures(content: bytes, rng: np.random.Generator) -> bytes:
    """Structures and contours that are empty, twins, reversed, of two points, beyond the scan or not on a plane."""
    dataset = pydicom.dcmread(io.BytesIO(content))
    drawn = dataset.get("ROIContourSequence")
    if not drawn:
        return other_words(content, rng)
    item = drawn[int(rng.integers(len(drawn)))]
    contours = item.ContourSequence
    at = int(rng.integers(len(contours)))
    points = np.array(contours[at].ContourData, dtype=np.float64).reshape(-1, 3)
    kind = int(rng.integers(8))
    if kind == 0:
        del item.ContourSequence
    elif kind == 1:
        contours.append(copy.deepcopy(contours[at]))
    elif kind == 2:
        item.ReferencedROINumber = dataset.StructureSetROISequence[0].ROINumber
    elif kind == 3:
        dataset.StructureSetROISequence[-1].ROINumber = dataset.StructureSetROISequence[0].ROINumber
    else:
        moved = (points[::-1], points[:2], points + 500.0, points + rng.normal(0, 2, points.shape))[kind - 4]
        contours[at].ContourData = [format_number_as_ds(float(v)) for v in moved.ravel()]
        contours[at].NumberOfContourPoints = len(moved)
    return _bytes(dataset)


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
    bare,
    other_words,
    odd_structures,
)
# Bombs take seconds each to be refused; they come less often.
SHARES = np.array([4, 5, 4, 4, 3, 4, 0.5, 0.15, 0.15, 2, 1, 3, 4, 4])
