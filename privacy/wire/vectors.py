"""The one array of a message: a flat vector of float32 or ring numbers, as raw little-endian bytes.

Raw bytes instead of NumPy's file format: reading copies nothing and parses no header that a stranger wrote.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord
from numpy.typing import NDArray

from privacy.dp.encoding import RING_TYPES, Ring
from shared_model.core.fields import MessageError
from shared_model.core.vector import Vector

MAX_PARAMETERS = 100_000_000
_KEY = "v"
_STYPE = "fedkt3d.f32le"


def pack_vector(vector: Vector) -> ArrayRecord:
    """Pack a (d,) float32 vector, 1 <= d <= MAX_PARAMETERS; raises MessageError ("schema") for any other array."""
    if vector.dtype != np.float32 or vector.ndim != 1 or not 1 <= vector.size <= MAX_PARAMETERS:
        raise MessageError("schema", f"vector: expected one flat float32 array of 1 to {MAX_PARAMETERS} values")
    return _pack(vector, _STYPE)


def unpack_vector(record: ArrayRecord) -> Vector:
    """Read the (d,) float32 vector, read-only and without a copy; raises MessageError ("schema")."""
    return _unpack(record, "vector", np.dtype(np.float32), _STYPE)


def pack_ring(ring: Ring) -> ArrayRecord:
    """Pack (d,) numbers of a ring of 16, 32 or 64 bits; raises MessageError ("schema") for any other array."""
    bits = 8 * ring.dtype.itemsize
    if ring.dtype != RING_TYPES.get(bits) or ring.ndim != 1 or not 1 <= ring.size <= MAX_PARAMETERS:
        raise MessageError("schema", f"ring: expected one flat array of 1 to {MAX_PARAMETERS} numbers of a ring")
    return _pack(ring, f"fedkt3d.u{bits}le")


def unpack_ring(record: ArrayRecord) -> Ring:
    """Read the (d,) ring numbers, read-only and without a copy; raises MessageError ("schema")."""
    array = record.get(_KEY)
    bits = next((b for b in RING_TYPES if array is not None and array.stype == f"fedkt3d.u{b}le"), None)
    if bits is None:
        raise MessageError("schema", "ring: expected one array of raw ring numbers")
    return _unpack(record, "ring", np.dtype(RING_TYPES[bits]), f"fedkt3d.u{bits}le")


def _pack(values: NDArray[Any], stype: str) -> ArrayRecord:
    """Pack checked values as little-endian bytes under their type's name."""
    data = np.ascontiguousarray(values, dtype=values.dtype.newbyteorder("<")).tobytes()
    return ArrayRecord({_KEY: Array(dtype=values.dtype.name, shape=(values.size,), stype=stype, data=data)})


def _unpack(record: ArrayRecord, what: str, dtype: np.dtype[Any], stype: str) -> NDArray[Any]:
    """Check and read one flat array. Where the machine is little-endian too, nothing is copied."""
    array = record.get(_KEY)
    if len(record) != 1 or array is None or array.dtype != dtype.name or array.stype != stype:
        raise MessageError("schema", f"{what}: expected one array of raw {dtype.name}")
    shape = tuple(array.shape)
    if len(shape) != 1 or not 1 <= shape[0] <= MAX_PARAMETERS or len(array.data) != dtype.itemsize * shape[0]:
        raise MessageError("schema", f"{what}: expected a flat array of 1 to {MAX_PARAMETERS} values and its bytes")
    return np.frombuffer(array.data, dtype=dtype.newbyteorder("<")).astype(dtype, copy=False)
