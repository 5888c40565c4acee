"""pgvector's binary formats: what is checked before a value is sent, its bytes, and what the bytes give.

Every `pack_` function takes a value, the dimensions of the column (None: any), what to call the column in messages, and
whether the zero vector is allowed. It raises DimensionMismatch or InvalidVector; no element is in a message.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pgvector

from ..errors import DimensionMismatch, InvalidVector

Embedding: TypeAlias = npt.NDArray[np.float32]
"""What a vector or half-precision column gives: float32, one dimension, read-only."""

Matrix: TypeAlias = npt.NDArray[np.float32]
"""Many vectors: float32, one a row."""

Bits: TypeAlias = npt.NDArray[np.bool_]
"""What a bit column gives: bool, one dimension, read-only."""

VectorLike: TypeAlias = Sequence[float] | npt.NDArray[Any] | pgvector.Vector | pgvector.HalfVector
"""What a vector or half-precision column takes."""

MatrixLike: TypeAlias = Sequence[VectorLike] | npt.NDArray[Any]
"""Many vectors: a sequence of them, or an array with one a row, which is the fastest."""

BitsLike: TypeAlias = Sequence[bool] | Sequence[int] | npt.NDArray[Any] | pgvector.Bit | str
"""What a bit column takes: True and False, or 1 and 0, or a text of these such as `101`."""

SparseLike: TypeAlias = Mapping[int, float] | Sequence[float] | npt.NDArray[Any] | pgvector.SparseVector
"""What a sparse column takes: values by index from 0, all of them, or a sparse array of SciPy."""

MAX_DIMENSIONS = 16_000
"""The longest vector that pgvector stores, and the most elements of a sparse one that are not zero."""

MAX_BITS = 83_886_080
"""The longest bit string that PostgreSQL stores."""

MAX_SPARSE = 1_000_000_000
"""The longest sparse vector that pgvector stores."""

SINGLE, HALF = np.dtype(">f4"), np.dtype(">f2")
"""The elements of the two dense formats, as they travel."""

_FLOAT32, _INT32 = np.dtype(np.float32), np.dtype(">i4")
_head = struct.Struct(">HH").pack
_length = struct.Struct(">i")
_sparse = struct.Struct(">iii")


def pack(value: VectorLike, dimensions: int | None, where: str = "vector", allow_zero: bool = True) -> bytes:
    """`vector`: two big-endian uint16 (dimensions, 0), then float32 each."""
    array = _finite(_numbers(value, dimensions, where), np.float32, where, allow_zero)
    return _head(array.shape[0], 0) + array.astype(SINGLE).tobytes()


def pack_half(
    value: VectorLike, dimensions: int | None, where: str = "halfvec", allow_zero: bool = True
) -> bytes:
    """`halfvec`: two big-endian uint16 (dimensions, 0), then float16 each."""
    array = _finite(_numbers(value, dimensions, where), np.float16, where, allow_zero)
    return _head(array.shape[0], 0) + array.astype(HALF).tobytes()


def pack_bits(value: BitsLike, dimensions: int | None, where: str = "bit", allow_zero: bool = True) -> bytes:
    """`bit`: int32 length, then the bits from the left, the last byte filled up with 0."""
    if isinstance(value, pgvector.Bit):
        value = value.to_numpy()
    elif isinstance(value, str):
        # As PostgreSQL writes it: 101.
        value = np.frombuffer(value.encode("ascii", "replace"), np.uint8) - ord("0")
    array = _flat(value, "biu", where, "True or False")
    _check_length(array.shape[0], dimensions, MAX_BITS, where)
    if array.dtype.kind != "b" and not ((array == 0) | (array == 1)).all():
        raise InvalidVector(f"{where}: expected True or False, or 1 and 0, got other numbers")
    return _length.pack(array.shape[0]) + np.packbits(array.astype(np.bool_)).tobytes()


def pack_sparse(
    value: SparseLike, dimensions: int | None, where: str = "sparsevec", allow_zero: bool = True
) -> bytes:
    """`sparsevec`: int32 dimensions, int32 count, 0; int32 indices in order; float32 each. Zeros are left out."""
    indices, values, length = _elements(value, dimensions, where)
    _check_length(length, dimensions, MAX_SPARSE, where)
    if indices.shape != values.shape or (indices.size and indices.dtype.kind not in "iu"):
        raise InvalidVector(f"{where}: expected a whole number as the index of each value")
    if indices.size and not (indices.min() >= 0 and indices.max() < length):
        raise InvalidVector(f"{where}: expected indices from 0 to {length - 1}, got others")
    order = np.argsort(indices)
    indices = indices[order]
    if (indices[1:] == indices[:-1]).any():
        raise InvalidVector(f"{where}: the same index twice; add the values up first")
    array = _finite(values[order], np.float32, where, allow_zero)
    indices, array = indices[array != 0], array[array != 0]
    if indices.size > MAX_DIMENSIONS:
        raise InvalidVector(
            f"{where}: expected at most {MAX_DIMENSIONS} elements that are not zero, got {indices.size}"
        )
    head = _sparse.pack(length, indices.size, 0)
    return b"".join((head, indices.astype(_INT32).tobytes(), array.astype(SINGLE).tobytes()))


def unpack(data: bytes) -> Embedding:
    """The vector of one `vector`."""
    array = np.frombuffer(data, SINGLE, -1, 4).astype(_FLOAT32)
    array.setflags(write=False)
    return array


def unpack_half(data: bytes) -> Embedding:
    """The vector of one `halfvec`, as float32."""
    array = np.frombuffer(data, HALF, -1, 4).astype(_FLOAT32)
    array.setflags(write=False)
    return array


def unpack_bits(data: bytes) -> Bits:
    """The bits of one `bit`."""
    (length,) = _length.unpack_from(data)
    array = np.unpackbits(np.frombuffer(data, np.uint8, -1, 4), count=length).view(np.bool_)
    array.setflags(write=False)
    return array


@dataclass(frozen=True)
class Format:
    """One of the formats: the name of its type in SQL, pgvector's class of its values, and the two ways."""

    name: str
    values: Any
    pack: Callable[[Any, int | None, str, bool], bytes]
    unpack: Callable[[bytes], Any]


VECTOR = Format("vector", pgvector.Vector, pack, unpack)
HALFVEC = Format("halfvec", pgvector.HalfVector, pack_half, unpack_half)
SPARSEVEC = Format("sparsevec", pgvector.SparseVector, pack_sparse, pgvector.SparseVector.from_binary)
BIT = Format("bit", pgvector.Bit, pack_bits, unpack_bits)


def pack_all(rows: npt.NDArray[Any], dimensions: int | None) -> list[bytes] | None:
    """What `pack` gives for each row of a matrix; None if one may be wrong, so that `pack` is to look at each."""
    if rows.dtype.kind != "f" or rows.shape[1] != dimensions:
        return None
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        array = rows.astype(np.float32, copy=False)
        squares = np.einsum("ij,ij->i", array, array)
    if not ((squares > 0) & (squares < np.inf)).all():
        return None
    packed = np.empty(len(array), [("head", ">u2", 2), ("elements", SINGLE, dimensions)])
    packed["head"], packed["elements"] = (dimensions, 0), array
    data, size = packed.tobytes(), packed.itemsize
    return [data[start : start + size] for start in range(0, len(data), size)]


def unpack_all(values: Sequence[bytes], dimensions: int | None, *, half: bool) -> Matrix:
    """The vectors of many `vector` or `halfvec` values, one a row; raises DimensionMismatch unless all are as long."""
    if not values:
        return np.empty((0, dimensions or 0), np.float32)
    element = HALF if half else SINGLE
    length = (len(values[0]) - 4) // element.itemsize
    if {len(value) for value in values} != {len(values[0])}:
        raise DimensionMismatch(
            f"matrix: expected {length} dimensions, as the first vector has, got others too"
        )
    rows = np.frombuffer(b"".join(values), [("head", ">u4"), ("elements", element, (length,))])
    return rows["elements"].astype(np.float32)


def _numbers(value: Any, dimensions: int | None, where: str) -> npt.NDArray[Any]:
    """`value` as an array of numbers, one dimension, of the right length."""
    if isinstance(value, pgvector.Vector | pgvector.HalfVector):
        value = value.to_numpy()
    array = _flat(value, "fiu", where, "numbers")
    _check_length(array.shape[0], dimensions, MAX_DIMENSIONS, where)
    return array


def _flat(value: Any, kinds: str, where: str, elements: str) -> npt.NDArray[Any]:
    try:
        array = np.asarray(value)
    except (TypeError, ValueError, OverflowError):
        array = np.asarray(None)
    # A list of strings, of None or of numbers beyond int64 gives another kind than float, int or unsigned.
    if array.dtype.kind not in kinds and array.size:
        raise InvalidVector(
            f"{where}: expected a flat sequence of {elements}, got {type(value).__name__} with elements that are none;"
            " give a list or an ndarray"
        )
    if array.ndim != 1:
        raise InvalidVector(
            f"{where}: expected one dimension, got shape {array.shape}; give one vector a row"
        )
    return array


def _check_length(length: int, dimensions: int | None, most: int, where: str) -> None:
    if length != dimensions and (dimensions is not None or not 1 <= length <= most):
        expected = f"1 to {most}" if dimensions is None else dimensions
        raise DimensionMismatch(
            f"{where}: expected {expected} dimensions, got {length}; embed with the model that the column was made for"
        )


def _finite(
    array: npt.NDArray[Any], kind: type[np.floating[Any]], where: str, allow_zero: bool
) -> npt.NDArray[Any]:
    """The array as floats of that kind, all of them finite, and not all zero unless that is allowed."""
    if array.dtype != kind:
        with np.errstate(over="ignore", under="ignore", invalid="ignore"):
            array = array.astype(kind)
    # One pass tells for nearly all vectors; those so large or so small that their squares are not in range are
    # looked at again. Unlike `dot` it does not warn of them, which would have to be switched off each time.
    if 0 < np.vdot(array, array) < np.inf:
        return array
    if not np.isfinite(array).all():
        beyond = "float32" if kind is np.float32 else "half precision, whose largest number is 65504"
        raise InvalidVector(
            f"{where}: elements that are NaN, infinite or beyond {beyond}; check the embedding model's output"
        )
    if not allow_zero and not array.any():
        raise InvalidVector(f"{where}: the zero vector has no direction; store NULL instead")
    return array


def _elements(
    value: Any, dimensions: int | None, where: str
) -> tuple[npt.NDArray[Any], npt.NDArray[Any], int]:
    """Indices, values and dimensions of a sparse vector."""
    if hasattr(value, "tocoo"):
        try:
            value = pgvector.SparseVector(value)
        except ValueError:
            raise InvalidVector(
                f"{where}: expected a sparse array of one row, got shape {value.shape}"
            ) from None
    if isinstance(value, pgvector.SparseVector):
        indices, values, length = value.indices(), value.values(), value.dimensions()
    elif hasattr(value, "keys"):
        if dimensions is None:
            raise InvalidVector(
                f"{where}: the column has no dimensions; give pgvector.SparseVector(mapping, dimensions)"
            )
        indices, values, length = list(value), list(value.values()), dimensions
    else:
        array = _flat(value, "fiu", where, "numbers")
        found = np.flatnonzero(array)
        return found, array[found], array.shape[0]
    return (
        _flat(indices, "iu", where, "indices") if indices else np.empty(0, np.int64),
        _flat(values, "fiu", where, "numbers"),
        length,
    )
