"""How long a file says that it is: of one that is shorter, a download stopped or a disk ran full.

FFmpeg plays what is there of such a file and says nothing; only MP4 and AVI count their frames. Formats that
state no size are made of blocks that do: the last one then reaches beyond the end.
"""

import io
import re
import struct
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

_HEAD_BYTES = 1 << 16
_TAIL_BYTES = 1 << 17  # a page of Ogg has at most 65307, a packet of MPEG 65541
_UNKNOWN_FROM = 0x7FFFF000
"""Sizes that writers to a pipe, who cannot know theirs, put into 32 bits."""

_SLACK_BYTES = 8
"""Some writers count the eight bytes of the first chunk's header as part of it."""

_W64 = bytes.fromhex("726966662e91cf11a5d628db04c10000")
_ASF_FILE_PROPERTIES = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")
_MXF_PARTITION = bytes.fromhex("060e2b34020501010d01020101")
_BOXES = frozenset(
    b"ftyp styp moov mdat wide skip free moof mfra sidx ssix uuid meta udta pnot PICT prft emsg pdin".split()
)
_FLV_TAGS = (8, 9, 18)  # sound, picture, data
_SYSTEM_START = re.compile(rb"\x00\x00\x01[\xb9-\xff]")
_END, _PACK = 0xB9, 0xBA


def missing_bytes(source: Path | str | bytes) -> tuple[int, int] | None:
    """Bytes that are there and bytes that there should be, by what the file says of itself; None where it is
    whole, or says nothing.

    Read are WAV, AIFF (RIFF 1.0, EA IFF 85), Wave64, Matroska and WebM (RFC 8794, 9559), Ogg (RFC 3533), ASF,
    MXF (SMPTE ST 377-1), CAF, AVI (OpenDML 1.02), MP4 and QuickTime (ISO/IEC 14496-12), FLV (Adobe 10.1), GIF
    (89a), MPEG program streams and VOB (ISO/IEC 13818-1).
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
    if head[8:12] == b"AVI ":
        return _avi(file, size)
    if head[8:12] not in (b"WAVE", b"AIFF", b"AIFC"):
        return None
    if head[:4] in (b"RF64", b"BW64"):
        return 8 + int(struct.unpack_from("<Q", head, 20)[0])
    (length,) = struct.unpack_from(">I" if head[:4] == b"FORM" else "<I", head, 4)
    return 8 + length if 0 < length < _UNKNOWN_FROM else None


def _avi(file: BinaryIO, size: int) -> int | None:
    """The end of its last RIFF, of which long files have several."""
    place = 0
    while place + 12 <= size:
        file.seek(place)
        name, length, kind = struct.unpack("<4sI4s", file.read(12))
        if name != b"RIFF" or kind not in (b"AVI ", b"AVIX"):
            break  # what follows is no part of it
        if not 0 < length < _UNKNOWN_FROM:
            return None
        place += 8 + length + length % 2
    return place


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
    tail = _tail(file, size)
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


def _boxes(head: bytes, file: BinaryIO, size: int) -> int | None:
    """The end of the last box: of a file that is cut in its index, FFmpeg leaves out tracks."""
    place = 0
    while place + 8 <= size:
        file.seek(place)
        length, name, long = struct.unpack(">I4sQ", file.read(16).ljust(16, b"\0"))
        length = long if length == 1 else length
        if name not in _BOXES or length < 8:
            break  # what follows is no part of it; 0: to the end
        place += length
    return place


def _flv(head: bytes, file: BinaryIO, size: int) -> int | None:
    """The end of the last tag; behind each stands how long it was."""
    (last,) = struct.unpack(">I", _tail(file, size)[-4:])
    if 11 <= last <= size - 13:
        file.seek(size - 4 - last)
        if int.from_bytes(file.read(4)[1:]) == last - 11:
            return size
    place = int(struct.unpack_from(">I", head, 5)[0]) + 4
    while place + 4 <= size:
        file.seek(place)
        kind, *length = file.read(4)
        if kind & 0x1F not in _FLV_TAGS:
            return None
        place += 11 + int.from_bytes(bytes(length)) + 4
    return place


def _gif(head: bytes, file: BinaryIO, size: int) -> int | None:
    """The end of the last block."""
    if _tail(file, size).rstrip(b"\0").endswith(b";"):
        return size
    place = 13 + _colours(head[10])
    while place < size:
        file.seek(place)
        block = file.read(10)
        if block[:1] == b"!":
            place += 2
        elif block[:1] == b",":
            place += 11 + _colours(block[9])
        else:
            return None
        length = 1
        while length and place < size:
            file.seek(place)
            (length,) = file.read(1)
            place += 1 + length
        place += bool(length)  # an empty one ends a block
    return place


def _colours(flags: int) -> int:
    """Bytes of the table of colours that a picture of a GIF, or all, may have."""
    return 3 * 2 ** ((flags & 7) + 1) if flags & 0x80 else 0


def _program_stream(head: bytes, file: BinaryIO, size: int) -> int | None:
    """The end of the last packet. No picture or sound holds a start code from 0xB9 on."""
    tail = _tail(file, size)
    starts = [match.start() for match in _SYSTEM_START.finditer(tail)]
    if not starts:
        return None
    place, code = starts[-1], tail[starts[-1] + 3]
    if code == _END:
        return size
    length = 10 if code == _PACK else 2 + int(struct.unpack_from(">H", tail, place + 4)[0])
    return size - len(tail) + place + 4 + length


def _tail(file: BinaryIO, size: int) -> bytes:
    file.seek(max(0, size - _TAIL_BYTES))
    return file.read()


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
    *((name, _boxes) for name in (b"ftyp", b"moov", b"mdat", b"wide", b"skip", b"free")),
    (b"FLV\x01", _flv),
    (b"GIF8", _gif),
    (b"\0\0\x01\xba", _program_stream),
)
