"""The one array of a message: a flat vector of float32, int64 sums, or ring numbers, as raw little-endian bytes.

Raw bytes instead of NumPy's file format: reading copies nothing and parses no header that a stranger wrote.
"""

from __future__ import annotations

import sys

import numpy as np
from flwr.app import Array, ArrayRecord
from numpy.typing import NDArray

from privacy.dp.encoding import RING_TYPES, Ring
from shared_model.core.fields import MessageError
from shared_model.core.vector import Vector

MAX_PARAMETERS = 100_000_000
_KEY = "v"
_STYPE = "fedkt3d.f32le"
# Gram matrices of up to 6,300 columns.
MAX_SUMS = 20_000_000
_SUMS_STYPE = "fedkt3d.i64le"
Sums = NDArray[np.int64]


def pack_vector(vector: Vector) -> ArrayRecord:
    """Pack a (d,) float32 vector, 1 <= d <= MAX_PARAMETERS; raises MessageError ("schema") for any other array."""
    if vector.dtype != np.float32 or vector.ndim != 1 or not 1 <= vector.size <= MAX_PARAMETERS:
        raise MessageError("schema", f"vector: expected one flat float32 array of 1 to {MAX_PARAMETERS} values")
    data = np.ascontiguousarray(vector, dtype="<f4").tobytes()
    return ArrayRecord({_KEY: Array(dtype="float32", shape=(vector.size,), stype=_STYPE, data=data)})


def unpack_vector(record: ArrayRecord) -> Vector:
    """Read the (d,) float32 vector, read-only and without a copy; raises MessageError ("schema")."""
    array = record.get(_KEY)
    if len(record) != 1 or array is None or array.dtype != "float32" or array.stype != _STYPE:
        raise MessageError("schema", "vector: expected one array of raw float32")
    shape = tuple(array.shape)
    if len(shape) != 1 or not 1 <= shape[0] <= MAX_PARAMETERS or len(array.data) != 4 * shape[0]:
        raise MessageError("schema", f"vector: expected a flat array of 1 to {MAX_PARAMETERS} values and its bytes")
    values: Vector = np.frombuffer(array.data, dtype="<f4")
    return values if sys.byteorder == "little" else values.astype(np.float32)


def pack_sums(sums: Sums) -> ArrayRecord:
    """Pack (s,) int64 sums, 1 <= s <= MAX_SUMS; raises MessageError ("schema") for any other array."""
    if sums.dtype != np.int64 or sums.ndim != 1 or not 1 <= sums.size <= MAX_SUMS:
        raise MessageError("schema", f"sums: expected one flat int64 array of 1 to {MAX_SUMS} values")
    data = np.ascontiguousarray(sums, dtype="<i8").tobytes()
    return ArrayRecord({_KEY: Array(dtype="int64", shape=(sums.size,), stype=_SUMS_STYPE, data=data)})


def unpack_sums(record: ArrayRecord) -> Sums:
    """Read the (s,) int64 sums, read-only and without a copy; raises MessageError ("schema")."""
    array = record.get(_KEY)
    if len(record) != 1 or array is None or array.dtype != "int64" or array.stype != _SUMS_STYPE:
        raise MessageError("schema", "sums: expected one array of raw int64")
    shape = tuple(array.shape)
    if len(shape) != 1 or not 1 <= shape[0] <= MAX_SUMS or len(array.data) != 8 * shape[0]:
        raise MessageError("schema", f"sums: expected a flat array of 1 to {MAX_SUMS} values and its bytes")
    values: Sums = np.frombuffer(array.data, dtype="<i8")
    return values if sys.byteorder == "little" else values.astype(np.int64)


def pack_ring(ring: Ring) -> ArrayRecord:
    """Pack (d,) numbers of a ring of 16, 32 or 64 bits; raises MessageError ("schema") for any other array."""
    bits = 8 * ring.dtype.itemsize
    if ring.dtype != RING_TYPES.get(bits) or ring.ndim != 1 or not 1 <= ring.size <= MAX_PARAMETERS:
        raise MessageError("schema", f"ring: expected one flat array of 1 to {MAX_PARAMETERS} numbers of a ring")
    data = np.ascontiguousarray(ring, dtype=ring.dtype.newbyteorder("<")).tobytes()
    return ArrayRecord({_KEY: Array(dtype=f"uint{bits}", shape=(ring.size,), stype=f"fedkt3d.u{bits}le", data=data)})


def unpack_ring(record: ArrayRecord) -> Ring:
    """Read the (d,) ring numbers, read-only and without a copy; raises MessageError ("schema")."""
    array = record.get(_KEY)
    bits = next((b for b in RING_TYPES if array is not None and array.stype == f"fedkt3d.u{b}le"), 0)
    if len(record) != 1 or array is None or not bits or array.dtype != f"uint{bits}":
        raise MessageError("schema", "ring: expected one array of raw ring numbers")
    shape = tuple(array.shape)
    if len(shape) != 1 or not 1 <= shape[0] <= MAX_PARAMETERS or len(array.data) != bits // 8 * shape[0]:
        raise MessageError("schema", f"ring: expected a flat array of 1 to {MAX_PARAMETERS} numbers and its bytes")
    values: Ring = np.frombuffer(array.data, dtype=f"<u{bits // 8}").astype(RING_TYPES[bits], copy=False)
    return values
