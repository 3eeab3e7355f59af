"""Opens one untrusted DICOM file: bounded in bytes; every failure becomes one line without any of its content.

pydicom trusts lengths: it inflates a whole deflated data set and accepts a value that ends early. Here pydicom reads
through a reader that notices when a value goes on beyond the end of the file.
"""

from __future__ import annotations

import hashlib
import io
import warnings
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import pydicom
from pydicom import filereader
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from shared_model.core.errors import InputError

# Above a structure set of a whole body with 100 organs, and a dose of 512 x 512 x 256 voxels in 32 bits.
MAX_FILE_BYTES = 512 * 2**20
MAX_INFLATED_BYTES = 256 * 2**20
# A data set shrinks to a third or a tenth. One that shrinks to less than this, and is not small, was made to do harm.
_LEAST_SHARE, _SMALL_BYTES = 1 / 100, 4 * 2**20
# The part before a CT slice's pixels usually fits into this; if it does not, the whole file is read.
_HEAD_BYTES = 64 * 2**10
# Items of sequences. A structure set of 100 organs has about 50,000, a plan of 230 arcs about 120,000; each costs 25
# microseconds, and a structure set may have to be read twice.
MAX_ITEMS = 200_000
_ITEMS = (b"\xfe\xff\x00\xe0", b"\xff\xfe\xe0\x00")  # little and big endian
_PREAMBLE = 128
_PIXEL_DATA = 0x7FE00010
# How a bare data set begins, which some systems write without the preamble: by group 2, or by an element of group 8
# that may stand first (group length, length to end, character set, image type, instance creation, SOP class).
_FIRST_OF_8 = (0x00, 0x01, 0x05, 0x06, 0x08, 0x12, 0x13, 0x14, 0x16, 0x18)
_BARE = (b"\x02\0\0\0", b"\x02\0\x10\0", *(b"\x08\0" + bytes([element, 0]) for element in _FIRST_OF_8))


class NotDicomError(InputError):
    """The file is not a DICOM file but a report, a picture or a backup. Nothing is wrong with it."""


class _Reader(io.BytesIO):
    """The bytes of a file; ``cut`` is set where a value would have gone on beyond their end."""

    def __init__(self, content: bytes) -> None:
        super().__init__(content)
        self._size = len(content)
        self._ends = 0
        self.cut = False

    def read(self, size: int | None = -1, /) -> bytes:
        """At most what is left."""
        found = super().read(size)
        if size is not None and len(found) < size:
            # The end of a data set is one read at the very end of the file; anything else is a value cut short.
            self._ends += not found
            self.cut |= bool(found) or self._ends > 1 or self.tell() > self._size
        return found


def open_dataset(path: Path, tags: Sequence[int] | None = None, *, pixels: bool = False) -> Dataset:
    """Parse ``path``: all elements, or those of ``tags``; pixel data only with ``pixels``.

    Raises NotDicomError for other files, InputError (without a path) for one that is damaged, cut short or too large.
    Runs in a process of its own (client/dicom/worker.py): what pydicom takes for it is bounded there.
    """
    if tags is not None:
        head, size = _bytes(path, _HEAD_BYTES)
        try:
            return _parse_bytes(head, tags, pixels)
        except InputError:
            if size <= len(head):
                raise
    return _parse_bytes(_bytes(path, MAX_FILE_BYTES)[0], tags, pixels)


def open_source(path: Path) -> Dataset:
    """Read all elements of a file except its pixels, and decode every value: a bad value fails here."""
    dataset = open_dataset(path)
    for _ in _elements(dataset):
        pass
    return dataset


def with_syntax(dataset: Dataset) -> Dataset:
    """Return ``dataset`` with a TransferSyntaxUID, without which no pixels are decoded. A bare data set has none: it is
    stored as it was parsed, and not compressed."""
    meta = getattr(dataset, "file_meta", None)
    if meta is None or "TransferSyntaxUID" not in meta:
        implicit, little = dataset.original_encoding
        syntax = ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian if little else ExplicitVRBigEndian
        dataset.file_meta = FileMetaDataset() if meta is None else meta
        dataset.file_meta.TransferSyntaxUID = syntax
    return dataset


def content_digest(path: Path) -> str:
    """A hash of what a file says, without its file meta information: equal for copies of one instance."""
    digest = hashlib.sha256()
    for element in _elements(open_dataset(path, pixels=True)):
        if element.VR != "SQ":
            digest.update(f"{element.tag} ".encode())
            digest.update(element.value if isinstance(element.value, bytes) else str(element.value).encode())
    return digest.hexdigest()


def _elements(dataset: Dataset) -> Iterator[DataElement]:
    """Every element, also of sequences, its value decoded. Raises InputError, without a value, where that fails."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # they quote values
        try:
            yield from dataset.iterall()
        except Exception as error:  # damage can raise anything in a decoder
            raise InputError(f"damaged: a value cannot be decoded ({type(error).__name__}); export it again") from None


def _bytes(path: Path, most: int) -> tuple[bytes, int]:
    """The first bytes of a file, and its size."""
    try:
        with open(path, "rb") as file:
            size = file.seek(0, io.SEEK_END)
            if size > MAX_FILE_BYTES:
                raise InputError(f"{size / 2**20:.0f} MiB; expected at most {MAX_FILE_BYTES // 2**20} MiB")
            file.seek(0)
            return file.read(min(most, size)), size
    except OSError as error:
        raise InputError(f"cannot be opened ({error.strerror})") from None


def _parse_bytes(content: bytes, tags: Sequence[int] | None, pixels: bool) -> Dataset:
    part_10 = content[_PREAMBLE : _PREAMBLE + 4] == b"DICM"
    if not part_10 and content[:4] not in _BARE:
        raise NotDicomError("not a DICOM file")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # they quote values
        try:
            return _parse(content, part_10, tags, pixels)
        except InputError:
            raise
        except (MemoryError, RecursionError) as error:
            raise InputError(f"nested or repeated without end ({type(error).__name__}); not read") from None
        except Exception as error:  # damage can raise anything in a parser; its text may quote a record
            raise InputError(f"damaged: cannot be parsed as DICOM ({type(error).__name__}); export it again") from None


def _check_items(content: bytes) -> None:
    if max(content.count(item) for item in _ITEMS) > MAX_ITEMS:
        raise InputError(f"more than {MAX_ITEMS} items; leave structures that are not needed out of the export")


def _parse(content: bytes, part_10: bool, tags: Sequence[int] | None, pixels: bool) -> Dataset:
    _check_items(content)
    source = _Reader(content)
    wanted = None if tags is None else [*tags]
    if part_10 and DeflatedExplicitVRLittleEndian.encode() in content[:2048]:
        filereader.read_preamble(source, force=False)
        meta = filereader._read_file_meta_info(source)
        if meta.get("TransferSyntaxUID") == DeflatedExplicitVRLittleEndian:
            return _parse_deflated(meta, source.read(), wanted, pixels)
        source.seek(0)
    dataset = pydicom.dcmread(source, force=not part_10, stop_before_pixels=not pixels, specific_tags=wanted)
    if source.cut:
        raise InputError("cut short: the file ends inside a value; copy or export it again")
    return dataset


def _parse_deflated(meta: Dataset, deflated: bytes, tags: list[int] | None, pixels: bool) -> Dataset:
    """A data set that was deflated after its file meta information (PS3.5 section A.5), inflated up to a limit."""
    inflate = zlib.decompressobj(-zlib.MAX_WBITS)
    most = min(MAX_INFLATED_BYTES, max(_SMALL_BYTES, int(len(deflated) / _LEAST_SHARE)))
    content = inflate.decompress(deflated, most)
    if inflate.unconsumed_tail or len(content) == most:
        raise InputError(f"inflates to {most // 2**20} MiB or more; not read")
    _check_items(content)
    if not inflate.eof:
        raise InputError("cut short: the deflated data set has no end; copy or export it again")
    source = _Reader(content)
    dataset = filereader.read_dataset(
        source,
        is_implicit_VR=False,
        is_little_endian=True,
        stop_when=None if pixels else (lambda tag, _vr, _length: tag == _PIXEL_DATA),
        specific_tags=tags,
    )
    if source.cut:
        raise InputError("cut short: the data set ends inside a value; copy or export it again")
    made = FileDataset(io.BytesIO(), dataset, file_meta=meta, is_implicit_VR=False, is_little_endian=True)  # type: ignore[arg-type]
    made.set_original_encoding(False, True, dataset._character_set)
    return made
