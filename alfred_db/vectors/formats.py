"""Binary formats of pgvector: validation of values, and conversion to and from bytes.

Every `pack_` function takes a value, the dimensions of the column (None: any), the name of the column for
messages, and whether the zero vector is allowed. DimensionMismatch or InvalidVector reports a wrong value; no
message contains an element.
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
"""A value of a vector or half-precision column: float32, one dimension, read-only."""

Matrix: TypeAlias = npt.NDArray[np.float32]
"""Several vectors: float32, one vector a row."""

Bits: TypeAlias = npt.NDArray[np.bool_]
"""A value of a bit column: bool, one dimension, read-only."""

VectorLike: TypeAlias = Sequence[float] | npt.NDArray[Any] | pgvector.Vector | pgvector.HalfVector
"""What a vector or half-precision column accepts."""

MatrixLike: TypeAlias = Sequence[VectorLike] | npt.NDArray[Any]
"""Many vectors: a sequence of them, or an array with one a row, which is the fastest."""

BitsLike: TypeAlias = Sequence[bool] | Sequence[int] | npt.NDArray[Any] | pgvector.Bit | str
"""What a bit column accepts: True and False, 1 and 0, or a text of these such as `101`."""

SparseLike: TypeAlias = Mapping[int, float] | Sequence[float] | npt.NDArray[Any] | pgvector.SparseVector
"""What a sparse column accepts: values by index from 0, all values, or a sparse array of SciPy."""

MAX_DIMENSIONS = 16_000
"""Maximum dimensions of a vector in pgvector, and maximum number of nonzero elements of a sparse one."""

MAX_BITS = 83_886_080
"""Maximum length of a bit string in PostgreSQL."""

MAX_SPARSE = 1_000_000_000
"""Maximum dimensions of a sparse vector in pgvector."""

SINGLE, HALF = np.dtype(">f4"), np.dtype(">f2")
"""The elements of the two dense formats on the wire."""

_FLOAT32, _INT32 = np.dtype(np.float32), np.dtype(">i4")
_head = struct.Struct(">HH").pack
_length = struct.Struct(">i")
_sparse = struct.Struct(">iii")


def pack(value: VectorLike, dimensions: int | None, where: str = "vector", allow_zero: bool = True) -> bytes:
    """Return a `vector`: two big-endian uint16 (dimensions, 0), then the elements as float32.

    Raises:
        DimensionMismatch: The length is not that of the column.
        InvalidVector: An element is not a finite number, or all are zero and `allow_zero` is False.
    """
    array = _finite(_numbers(value, dimensions, where), np.float32, where, allow_zero)
    return _head(array.shape[0], 0) + array.astype(SINGLE).tobytes()


def pack_half(
    value: VectorLike, dimensions: int | None, where: str = "halfvec", allow_zero: bool = True
) -> bytes:
    """Return a `halfvec`: two big-endian uint16 (dimensions, 0), then the elements as float16.

    Raises:
        DimensionMismatch: The length is not that of the column.
        InvalidVector: An element is not a finite number, or all are zero and `allow_zero` is False.
    """
    array = _finite(_numbers(value, dimensions, where), np.float16, where, allow_zero)
    return _head(array.shape[0], 0) + array.astype(HALF).tobytes()


def pack_bits(value: BitsLike, dimensions: int | None, where: str = "bit", allow_zero: bool = True) -> bytes:
    """Return a `bit`: the length as int32, then the bits from the left, padded with 0 to whole bytes.

    Raises:
        DimensionMismatch: The length is not that of the column.
        InvalidVector: An element is not a bit.
    """
    if isinstance(value, pgvector.Bit):
        value = value.to_numpy()
    elif isinstance(value, str):
        # The output format of PostgreSQL: 101.
        value = np.frombuffer(value.encode("ascii", "replace"), np.uint8) - ord("0")
    array = _flat(value, "biu", where, "True or False")
    _check_length(array.shape[0], dimensions, MAX_BITS, where)
    if array.dtype.kind != "b" and not ((array == 0) | (array == 1)).all():
        raise InvalidVector(f"{where}: expected True or False, or 1 and 0, got other numbers")
    return _length.pack(array.shape[0]) + np.packbits(array.astype(np.bool_)).tobytes()


def pack_sparse(
    value: SparseLike, dimensions: int | None, where: str = "sparsevec", allow_zero: bool = True
) -> bytes:
    """Return a `sparsevec`: int32 dimensions, int32 count, 0, the indices in order, the elements.

    Indices are int32, elements float32. Zeros are left out.

    Raises:
        DimensionMismatch: The length is not that of the column.
        InvalidVector: An index is repeated or out of range, an element is not a finite number, there are too
            many nonzero elements, or all are zero and `allow_zero` is False.
    """
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
    """Return the vector of a `vector`."""
    array = np.frombuffer(data, SINGLE, -1, 4).astype(_FLOAT32)
    array.setflags(write=False)
    return array


def unpack_half(data: bytes) -> Embedding:
    """Return the vector of a `halfvec` as float32."""
    array = np.frombuffer(data, HALF, -1, 4).astype(_FLOAT32)
    array.setflags(write=False)
    return array


def unpack_bits(data: bytes) -> Bits:
    """Return the bits of a `bit`."""
    (length,) = _length.unpack_from(data)
    array = np.unpackbits(np.frombuffer(data, np.uint8, -1, 4), count=length).view(np.bool_)
    array.setflags(write=False)
    return array


@dataclass(frozen=True)
class Format:
    """A format: the name of its SQL type, the class of its values in pgvector, and both conversions."""

    name: str
    values: Any
    pack: Callable[[Any, int | None, str, bool], bytes]
    unpack: Callable[[bytes], Any]


VECTOR = Format("vector", pgvector.Vector, pack, unpack)
HALFVEC = Format("halfvec", pgvector.HalfVector, pack_half, unpack_half)
SPARSEVEC = Format("sparsevec", pgvector.SparseVector, pack_sparse, pgvector.SparseVector.from_binary)
BIT = Format("bit", pgvector.Bit, pack_bits, unpack_bits)


def pack_all(rows: npt.NDArray[Any], dimensions: int | None) -> list[bytes] | None:
    """Return each row of a matrix as `pack` does.

    None if a row may be invalid; the caller then calls `pack` for each row.
    """
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
    """Return the vectors of several `vector` or `halfvec` values, one a row.

    Raises:
        DimensionMismatch: The vectors have different lengths.
    """
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
    """Return a value as a one-dimensional array of numbers of the right length."""
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
    # The array of a list of strings, of None or of numbers beyond int64 has another kind than float, int or unsigned.
    if array.dtype.kind not in kinds and array.size:
        raise InvalidVector(
            f"{where}: expected a flat sequence of {elements}, got {type(value).__name__} with other elements;"
            " pass a list or an ndarray"
        )
    if array.ndim != 1:
        raise InvalidVector(f"{where}: expected one dimension, got shape {array.shape}; pass one vector")
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
    """Return an array as floats of a kind; all must be finite, and not all zero unless that is allowed."""
    if array.dtype != kind:
        with np.errstate(over="ignore", under="ignore", invalid="ignore"):
            array = array.astype(kind)
    # One pass is enough for nearly all vectors; those so large or so small that their squares are out of range are
    # checked again. Unlike `dot`, `vdot` does not warn about them, so that no warning has to be suppressed.
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
    """Return indices, values and dimensions of a sparse vector."""
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
                f"{where}: the column has no dimensions; pass pgvector.SparseVector(mapping, dimensions)"
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
