"""How long a file says that it is: of one that is shorter, a download stopped or a disk ran full.

FFmpeg plays what is there of such a file and says nothing; only MP4 and AVI count their frames.
"""

import io
import struct
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

_HEAD_BYTES = 1 << 16
_OGG_TAIL_BYTES = 1 << 17  # a page of Ogg has at most 65307
_UNKNOWN_FROM = 0x7FFFF000
"""Sizes that writers to a pipe, who cannot know theirs, put into 32 bits."""

_SLACK_BYTES = 8
"""Some writers count the eight bytes of the first chunk's header as part of it."""

_W64 = bytes.fromhex("726966662e91cf11a5d628db04c10000")
_ASF_FILE_PROPERTIES = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")
_MXF_PARTITION = bytes.fromhex("060e2b34020501010d01020101")


def missing_bytes(source: Path | str | bytes) -> tuple[int, int] | None:
    """Bytes that are there and bytes that there should be, by what the file says of itself; None where it is
    whole, or says nothing.

    Read are WAV, AIFF (RIFF 1.0, EA IFF 85), Wave64, Matroska and WebM (RFC 8794, 9559), Ogg (RFC 3533), ASF,
    MXF (SMPTE ST 377-1) and CAF.
    """
    with io.BytesIO(source) if isinstance(source, bytes) else Path(source).open("rb") as file:
        size = file.seek(0, io.SEEK_END)
        file.seek(0)
        head = file.read(_HEAD_BYTES)
        try:
            stated = next((read(head, file, size) for sign, read in _READERS if sign in head[:16]), None)
        except (struct.error, IndexError):
            return None  # the header itself is cut, which is found when the file is opened
    return (size, stated) if stated is not None and stated > size + _SLACK_BYTES else None


def _iff(head: bytes, file: BinaryIO, size: int) -> int | None:
    if head[8:12] not in (b"WAVE", b"AIFF", b"AIFC"):
        return None
    if head[:4] in (b"RF64", b"BW64"):
        return 8 + int(struct.unpack_from("<Q", head, 20)[0])
    (length,) = struct.unpack_from(">I" if head[:4] == b"FORM" else "<I", head, 4)
    return 8 + length if 0 < length < _UNKNOWN_FROM else None


def _wave64(head: bytes, file: BinaryIO, size: int) -> int | None:
    return int(struct.unpack_from("<Q", head, 16)[0])


def _matroska(head: bytes, file: BinaryIO, size: int) -> int | None:
    place = 4
    length, place = _vint(head, place)
    if length is None:
        return None
    place += length
    if head[place : place + 4] != b"\x18\x53\x80\x67":  # the segment
        return None
    length, place = _vint(head, place + 4)
    return None if length is None else place + length


def _vint(data: bytes, place: int) -> tuple[int | None, int]:
    """A size of EBML and the place behind it; None: not known."""
    width = 9 - data[place].bit_length()
    value = int.from_bytes(data[place : place + width]) & ((1 << 7 * width) - 1)
    return (None if value == (1 << 7 * width) - 1 else value), place + width


def _ogg(head: bytes, file: BinaryIO, size: int) -> int | None:
    file.seek(max(0, size - _OGG_TAIL_BYTES))
    tail = file.read()
    last = tail.rfind(b"OggS\0")
    if last < 0 or len(tail) < last + 27:
        return None
    segments = tail[last + 27 : last + 27 + tail[last + 26]]
    return size - len(tail) + last + 27 + tail[last + 26] + sum(segments)


def _asf(head: bytes, file: BinaryIO, size: int) -> int | None:
    found = head.find(_ASF_FILE_PROPERTIES)
    return None if found < 0 else int(struct.unpack_from("<Q", head, found + 40)[0])


def _mxf(head: bytes, file: BinaryIO, size: int) -> int | None:
    """Where the footer begins, which is written last."""
    length = head[16]
    place = 17 + (length & 0x7F if length & 0x80 else 0)
    return int(struct.unpack_from(">Q", head, place + 24)[0]) or None


def _caf(head: bytes, file: BinaryIO, size: int) -> int | None:
    place = 8
    while place + 12 <= size:
        file.seek(place)
        (length,) = struct.unpack(">q", file.read(12)[4:])
        if length < 0:
            return None
        place += 12 + length
    return place


_READERS: tuple[tuple[bytes, Callable[[bytes, BinaryIO, int], int | None]], ...] = (
    (b"RIFF", _iff),
    (b"RF64", _iff),
    (b"BW64", _iff),
    (b"FORM", _iff),
    (_W64, _wave64),
    (b"\x1aE\xdf\xa3", _matroska),
    (b"OggS", _ogg),
    (b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", _asf),
    (_MXF_PARTITION, _mxf),
    (b"caff", _caf),
)
