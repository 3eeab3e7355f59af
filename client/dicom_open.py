"""Opens one DICOM file that nobody vouches for: bounded in bytes, every failure one line without a word of its content.

pydicom trusts lengths: it inflates a deflated data set whole, and takes a value that ends early as it is. Here a file is
read through a reader that never asks for more than there is and notices when it was asked to.
"""

from __future__ import annotations

import io
import os
import warnings
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO, cast

import pydicom
from pydicom import filereader
from pydicom.dataset import Dataset, FileDataset
from pydicom.uid import DeflatedExplicitVRLittleEndian

from shared_model.errors import InputError

# Above a structure set of a whole body with 100 organs, and a dose of 512^3 voxels in 32 bits.
MAX_FILE_BYTES = 512 * 2**20
MAX_INFLATED_BYTES = 256 * 2**20
_PREAMBLE = 128
_PIXEL_DATA = 0x7FE00010


class NotDicomError(InputError):
    """The file is no DICOM file: a report, a picture, a backup. Nothing is wrong with it."""


class _Reader(io.BufferedReader):
    """A file that counts what could not be read of what was asked for."""

    def __init__(self, raw: io.RawIOBase, size: int) -> None:
        super().__init__(raw)
        self._size = size
        self.cut = False
        self._ends = 0

    def read(self, size: int | None = -1, /) -> bytes:
        """At most what is left; ``cut`` is set where a value ends early."""
        left = max(self._size - self.tell(), 0)
        wanted = left if size is None or size < 0 else size
        if wanted > left:
            # The end of a data set is one read at the very end of the file; anything else is a value cut short.
            self._ends += left == 0
            self.cut |= left > 0 or self._ends > 1 or self.tell() > self._size
        return super().read(min(wanted, left))


def open_dataset(path: Path, tags: Sequence[int] | None = None, *, pixels: bool = False) -> Dataset:
    """Parse ``path``: all elements, or those of ``tags``; pixel data only with ``pixels``.

    Raises NotDicomError for other files, InputError (without a path) for one that is damaged, cut short or too large.
    Runs in a process of its own (client/dicom_worker.py): what pydicom takes for it is bounded there.
    """
    try:
        size = os.stat(path).st_size
        with open(path, "rb") as raw:
            head = raw.read(_PREAMBLE + 4)
    except OSError as error:
        raise InputError(f"cannot be opened ({error.strerror})") from None
    _check_head(head, size)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # they quote values
        try:
            with _Reader(io.FileIO(path), size) as stream:
                return _parse(stream, head, tags, pixels)
        except InputError:
            raise
        except (MemoryError, RecursionError) as error:
            raise InputError(f"nested or repeated without end ({type(error).__name__}); not read") from None
        except Exception as error:  # damage can raise anything in a parser; its text may quote a record
            raise InputError(f"damaged: cannot be parsed as DICOM ({type(error).__name__}); export it again") from None


def _check_head(head: bytes, size: int) -> None:
    if size > MAX_FILE_BYTES:
        raise InputError(f"{size / 2**20:.0f} MiB; expected at most {MAX_FILE_BYTES // 2**20} MiB")
    # PS3.10 section 7.1; some systems write the bare data set, which begins with group 2 or 8.
    if head[_PREAMBLE:] != b"DICM" and head[:4] not in (
        b"\x02\0\0\0",
        b"\x02\0\x10\0",
        b"\x08\0\x05\0",
        b"\x08\0\x08\0",
    ):
        raise NotDicomError("no DICOM file")


def _parse(stream: _Reader, head: bytes, tags: Sequence[int] | None, pixels: bool) -> Dataset:
    source = cast(BinaryIO, stream)
    force = head[_PREAMBLE:] != b"DICM"
    if not force and _meta(source).get("TransferSyntaxUID") == DeflatedExplicitVRLittleEndian:
        dataset = _parse_deflated(source, tags, pixels)
    else:
        wanted = None if tags is None else [*tags]
        dataset = pydicom.dcmread(source, force=force, stop_before_pixels=not pixels, specific_tags=wanted)  # type: ignore[arg-type]
    if stream.cut:
        raise InputError("cut short: the file ends inside a value; copy or export it again")
    return dataset


def _meta(source: BinaryIO) -> Dataset:
    """File meta information; the stream is left at its start."""
    source.seek(0)
    filereader.read_preamble(source, force=False)
    meta = filereader._read_file_meta_info(source)
    source.seek(0)
    return meta


def _parse_deflated(source: BinaryIO, tags: Sequence[int] | None, pixels: bool) -> Dataset:
    """A data set that was deflated after its file meta information (PS3.5 section A.5), inflated up to a limit."""
    filereader.read_preamble(source, force=False)
    meta = filereader._read_file_meta_info(source)
    inflate = zlib.decompressobj(-zlib.MAX_WBITS)
    content = inflate.decompress(source.read(), MAX_INFLATED_BYTES)
    if inflate.unconsumed_tail or len(content) == MAX_INFLATED_BYTES:
        raise InputError(f"inflates to {MAX_INFLATED_BYTES // 2**20} MiB or more; not read")
    if not inflate.eof:
        raise InputError("cut short: the deflated data set has no end; copy or export it again")
    plain = _Reader(io.BytesIO(content), len(content))  # type: ignore[arg-type]
    dataset = filereader.read_dataset(
        cast(BinaryIO, plain),
        is_implicit_VR=False,
        is_little_endian=True,
        stop_when=None if pixels else (lambda tag, _vr, _length: tag == _PIXEL_DATA),
        specific_tags=None if tags is None else [*tags],
    )
    if plain.cut:
        raise InputError("cut short: the data set ends inside a value; copy or export it again")
    made = FileDataset(io.BytesIO(), dataset, file_meta=meta, is_implicit_VR=False, is_little_endian=True)
    made.set_original_encoding(False, True, dataset._character_set)
    return made
