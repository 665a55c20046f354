"""Files of others, read within bounds: what they claim of themselves is compared with their bytes first.

A header of a hundred bytes can claim an array of gigabytes, a compressed archive can hold a thousand times
its size, and JSON can nest deeper than Python goes. Nothing here takes memory for what is not there.
"""

import io
import json
import math
import re
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Collection
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy

MAX_JSON = 64 << 20
"""Bytes of a JSON file or member."""

MAX_INFLATED = 256 << 20
"""Bytes that compressed arrays may take beyond MAX_RATIO times the bytes of their file."""

MAX_RATIO = 30
MAX_RATE = 1000
"""Frames a second."""

_MAX_MEMBERS = 1000
_RATE = re.compile(r"[0-9]{1,9}(\.[0-9]{1,20}|/[0-9]{1,9})?")
_DAMAGE = (
    *(ValueError, LookupError, TypeError, AttributeError, ArithmeticError, EOFError, RuntimeError, OSError),
    *(MemoryError, zipfile.BadZipFile, zlib.error, struct.error, tokenize.TokenError, SyntaxError),
)


def read_json(source: Path | bytes | memoryview, *, limit: int = MAX_JSON) -> Any:
    """What JSON of a file, or these bytes, holds.

    Raises:
        ValueError: larger than `limit` bytes, damaged, or nested too deeply.
        OSError: the file cannot be read.
    """
    size = source.stat().st_size if isinstance(source, Path) else len(source)
    if size > limit:
        raise ValueError(f"{size} bytes of JSON, more than the {limit} that are read")
    data = source.read_bytes() if isinstance(source, Path) else bytes(source)
    try:
        return json.loads(data)
    except RecursionError as error:
        raise ValueError("JSON that is nested too deeply") from error


def read_arrays(
    source: Path | bytes | memoryview, names: Collection[str] | None = None
) -> dict[str, np.ndarray]:
    """Arrays of an .npz by name, all or those of `names` that are there; nothing is unpickled.

    Raises:
        ValueError: damaged, or an array that claims more than its bytes; compressed ones may inflate to
            MAX_RATIO times the file and MAX_INFLATED more.
        OSError: the file cannot be read.
    """
    size = source.stat().st_size if isinstance(source, Path) else len(source)
    file = source.open("rb") if isinstance(source, Path) else io.BytesIO(source)
    with file:
        try:
            with zipfile.ZipFile(file) as archive:
                return _members(archive, size, names)
        except _DAMAGE as error:
            raise ValueError(f"no sound .npz of plain arrays ({_said(error)})") from error


def read_array(path: Path) -> np.ndarray:
    """The array of an .npy, which holds exactly what its header claims; nothing is unpickled.

    Raises:
        ValueError: damaged, or its size is not what it claims.
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        try:
            return _array(file, path.stat().st_size)
        except _DAMAGE as error:
            raise ValueError(f"no sound .npy of plain numbers ({_said(error)})") from error


def parse_rate(stated: Any) -> Fraction:
    """Frames a second that a file states: 25, 29.97 or "30000/1001"; 0 for what does not move.

    Raises:
        ValueError: something else, or more than MAX_RATE.
    """
    text = repr(stated) if isinstance(stated, int | float) and not isinstance(stated, bool) else stated
    if isinstance(stated, Fraction):
        text = str(stated)
    if not isinstance(text, str) or not _RATE.fullmatch(text) or re.search(r"/0+$", text):
        raise ValueError(f"a frame rate of {str(stated)[:40]!r}: give a number, or one such as 30000/1001")
    rate = Fraction(text)
    if rate > MAX_RATE:
        raise ValueError(f"a frame rate of {str(stated)[:40]}: more than {MAX_RATE}")
    return rate


def _members(archive: zipfile.ZipFile, size: int, names: Collection[str] | None) -> dict[str, np.ndarray]:
    entries = archive.infolist()
    if len(entries) > _MAX_MEMBERS:
        raise ValueError(f"{len(entries)} arrays, more than {_MAX_MEMBERS}")
    wanted = {}
    for entry in entries:
        name = entry.filename.removesuffix(".npy")
        if name in wanted:
            raise ValueError(f"two arrays are called {name}")
        if names is None or name in names:
            wanted[name] = entry
    claimed = sum(entry.file_size for entry in wanted.values())
    stored = all(entry.compress_type == zipfile.ZIP_STORED for entry in wanted.values())
    if claimed > (size if stored else MAX_RATIO * size + MAX_INFLATED):
        raise ValueError(f"arrays of {claimed} bytes in a file of {size}")
    arrays = {}
    for name, entry in wanted.items():
        with archive.open(entry) as member:
            arrays[name] = _array(member, entry.file_size)
    return arrays


def _array(file: Any, size: int) -> np.ndarray:
    """The array at the place of `file`, of which `size` bytes are left."""
    version = npy.read_magic(file)
    read = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}.get(version)
    if read is None:
        raise ValueError(f"version {version} of .npy")
    shape, fortran, dtype = read(file)
    if dtype.hasobject:
        raise ValueError("it holds Python objects, which are never unpickled")
    if any(side < 0 for side in shape):
        raise ValueError(f"shape {shape}")
    expected = math.prod(shape) * dtype.itemsize
    if expected > size:
        raise ValueError(f"it claims {expected} bytes, {size} are there")
    data = file.read(expected + 1)
    if len(data) != expected:
        raise ValueError(f"it claims {expected} bytes, {len(data)} are there")
    array = np.frombuffer(bytearray(data), dtype=dtype)
    return array.reshape(shape[::-1]).T if fortran else array.reshape(shape)


def _said(error: BaseException) -> str:
    return str(error) or type(error).__name__
