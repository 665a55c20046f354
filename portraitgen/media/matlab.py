"""Numeric matrices of MATLAB files, within bounds; scipy's reader ends the whole process at damaged ones.

The level 5 format, which MATLAB writes by `save -v6` and, compressed, by `-v7`, and scipy's `savemat` too:
"MAT-File Format", The MathWorks, chapter 1. After a header of 128 bytes come elements of a tag (type, number
of bytes) and data; a matrix is an element that holds flags, dimensions, name and values as elements.
"""

import math
import struct
import zlib
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from portraitgen.media.bounded import MAX_INFLATED, MAX_RATIO

_HEADER = 128
_ENDIANS = {b"IM": "<", b"MI": ">"}
_INT8, _INT32, _UINT32, _MATRIX, _COMPRESSED = 1, 5, 6, 14, 15
_NUMBERS = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
"""Type of an element → how numpy calls it."""
_NUMERIC_CLASSES = range(6, 16)
"""double, single, int8 to uint64; not cells, structures, objects, text, sparse matrices, functions."""
_COMPLEX = 0x0800
_MAX_AXES = 8


class _Element(NamedTuple):
    kind: int
    data: memoryview


def read_matrices(path: Path, names: Collection[str]) -> dict[str, np.ndarray]:
    """Those of the named variables that a file has; nothing else of it is looked at.

    Args:
        path: a MATLAB file of level 5.
        names: of real numeric matrices.

    Raises:
        OSError: the file cannot be opened.
        ValueError: it is of another kind, damaged, or a variable is no real numeric matrix.
    """
    content = memoryview(path.read_bytes())
    order = _ENDIANS.get(bytes(content[126:_HEADER]))
    if order is None:
        raise ValueError("no MATLAB file of level 5 (`save -v7` in MATLAB, or scipy.io.savemat, writes one)")
    found = {}
    for element in _elements(content[_HEADER:], order):
        if element.kind == _COMPRESSED:
            element = next(_elements(_inflated(element.data), order), element)
        if element.kind == _MATRIX and (named := _matrix(element.data, order, names)) is not None:
            found[named[0]] = named[1]
    return found


def _elements(data: memoryview, order: str) -> Iterator[_Element]:
    """Elements that lie one behind the other."""
    while data:
        if len(data) < 8:
            raise ValueError("it ends within a tag")
        kind, size = struct.unpack_from(f"{order}2I", data)
        begin = 8
        if kind >> 16:  # four bytes of data at most, in the tag itself
            kind, size, begin = kind & 0xFFFF, kind >> 16, 4
        if size > (4 if begin == 4 else len(data) - begin):
            raise ValueError(f"an element claims {size} bytes, more than there are")
        yield _Element(kind, data[begin : begin + size])
        padded = size if kind == _COMPRESSED else -(-size // 8) * 8
        data = data[8 if begin == 4 else begin + padded :]


def _inflated(data: memoryview) -> memoryview:
    limit = MAX_INFLATED + MAX_RATIO * len(data)
    stream = zlib.decompressobj()
    try:
        inflated = stream.decompress(data, limit)
    except zlib.error as error:
        raise ValueError(f"compressed data are damaged ({error})") from error
    if not stream.eof:
        raise ValueError(f"compressed data end too early, or hold more than {limit} bytes")
    return memoryview(inflated)


def _matrix(data: memoryview, order: str, names: Collection[str]) -> tuple[str, np.ndarray] | None:
    """Name and values of a matrix, in MATLAB's shape; None if it is none of `names`."""
    parts = _elements(data, order)
    flags, axes, name = (next(parts, None) for _ in range(3))
    if flags is None or axes is None or name is None or len(flags.data) != 8:
        raise ValueError("a matrix without flags, dimensions or name")
    if (flags.kind, axes.kind, name.kind) != (_UINT32, _INT32, _INT8):
        raise ValueError("flags, dimensions or name of a matrix are damaged")
    called = bytes(name.data).decode("latin-1")
    if called not in names:
        return None
    (kind, _) = struct.unpack(f"{order}2I", flags.data)
    values = next(parts, None)
    if kind & 0xFF not in _NUMERIC_CLASSES or kind & _COMPLEX or values is None:
        raise ValueError(f"{called} is no real numeric matrix")
    shape = np.frombuffer(axes.data[: len(axes.data) // 4 * 4], f"{order}i4").tolist()
    number = _NUMBERS.get(values.kind)
    if number is None or not 2 <= len(shape) <= _MAX_AXES or min(shape) < 0:
        raise ValueError(f"{called}: dimensions or type of its values are damaged")
    if math.prod(shape) * np.dtype(number).itemsize != len(values.data):
        raise ValueError(f"{called} claims to be {shape}, its values have {len(values.data)} bytes")
    return called, np.frombuffer(values.data, f"{order}{number}").astype(number).reshape(shape, order="F")
