"""Open files of strangers: as nothing but media, and with a word for those that are something else.

FFmpeg also opens lists of other files (HLS, DASH, concat), scripts of filters, devices and addresses: a file
that is called a.mp4 could then show another one of this machine, or ask for one from the net.
"""

import errno
import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import av
from av.container import InputContainer

VideoSource = Path | str | bytes

MAX_FRAME_PIXELS = 64_000_000
"""Of a frame, 192 MB as RGB: nearly twice the frames of 8K cameras."""

_FORMATS = (
    "aac,ac3,aiff,amr,amrnb,amrwb,amv,ape,apng,asf,au,av1,avi,caf,dts,dtshd,dv,eac3,flac,flv,gif,gxf,h263,"
    "h264,hevc,iamf,ivf,live_flv,loas,m4v,matroska,mjpeg,mlp,mov,mp3,mpc,mpc8,mpeg,mpegts,mpegvideo,mxf,nsv,"
    "nut,obu,ogg,rm,tak,truehd,tta,vc1,voc,w64,wav,wtv,wv,y4m,yuv4mpegpipe"
)
"""Demuxers that read one file and no other."""

_SIGNS = (
    (rb"\s*<(!doctype|html|head|body)", "a web page: fetch it again, the download met a login or an error"),
    (rb"version https://git-lfs", "a pointer of Git LFS: `git lfs pull` fetches the file"),
    (rb"#EXTM3U|ffconcat|\[playlist\]|\s*<\?xml[^\0]*<MPD", "a list of other files: give those"),
    (rb"\xff\xd8\xff|\x89PNG|BM.{4}\0\0\0\0|II\*\0|MM\0\*|RIFF.{4}WEBP", "a picture"),
    (rb".{4}ftyp(hei|mif1|avif)", "a picture"),
    (rb"PK\x03\x04|Rar!|\x1f\x8b|7z\xbc\xaf|BZh|\xfd7zXZ|.{257}ustar", "an archive: unpack it"),
    (rb"%PDF", "a PDF"),
    (rb"\x7fELF|MZ|#!", "a program"),
    (rb"\0+\Z", "nothing but zeros: fetch it again"),
    (rb"[\t\n\r\f\x20-\x7e]+\Z", "text"),
)
"""What files that are no media begin with, and what they are."""

_LOST_INDEX = (
    "either it is none at all, or an mp4 that was cut short and so lost its index (moov): fetch it again or "
    "remove it"
)


class VideoError(ValueError):
    """A video or sound cannot be used; the message names the file, the cause and what to do."""


def source_name(source: VideoSource, name: str | None) -> str:
    """What messages call a source: the given name, else the path, else that it lies in memory."""
    return name or ("<bytes in memory>" if isinstance(source, bytes) else str(source))


@contextmanager
def open_media(source: VideoSource, name: str) -> Iterator[InputContainer]:
    """Open a file or its bytes for reading.

    Raises:
        VideoError: there is nothing readable in it, or, inside the block, it turns out to be damaged.
    """
    if not isinstance(source, bytes) and not Path(source).is_file():
        raise VideoError(f"{name}: no such file")
    size = len(source) if isinstance(source, bytes) else Path(source).stat().st_size
    if size == 0:
        raise VideoError(f"{name}: the file is empty (0 bytes); fetch it again or remove it")
    # "talk: part 1.mp4" would else be read by a protocol called talk.
    opened = io.BytesIO(source) if isinstance(source, bytes) else f"file:{source}"
    # FFmpeg decodes a picture as it opens a file: a flat one of some kilobytes can hold gigabytes.
    bounds = {"format_whitelist": _FORMATS, "protocol_whitelist": "file", "max_pixels": str(MAX_FRAME_PIXELS)}
    try:
        container = av.open(opened, "r", options=bounds)
    except (av.error.FFmpegError, OSError, UnicodeDecodeError) as error:
        raise VideoError(f"{name}: {_why_not_opened(source, error)}") from error
    with container:
        try:
            yield container
        except (av.error.FFmpegError, UnicodeDecodeError) as error:
            raise VideoError(
                f"{name}: cannot be read to its end ({_reason(error)}); fetch it again or remove it"
            ) from error


def _why_not_opened(source: VideoSource, error: Exception) -> str:
    if isinstance(error, OSError) and error.errno == errno.EACCES:
        return "cannot be opened: you have no permission to read it"
    try:
        head = source[:512] if isinstance(source, bytes) else _head(Path(source))
    except OSError as unreadable:
        return f"cannot be read ({unreadable.strerror})"
    what = next((what for sign, what in _SIGNS if re.match(sign, head, re.DOTALL | re.IGNORECASE)), None)
    if what is not None:
        advice = "" if ":" in what else "; fetch it again or remove it"
        return f"not a readable video or sound but {what}{advice}"
    return f"not a readable video or sound ({_reason(error)}); {_LOST_INDEX}"


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(512)


def _reason(error: Exception) -> str:
    """FFmpeg's words without its numbers, which stand for nothing outside of it."""
    if isinstance(error, UnicodeDecodeError):
        return error.reason  # PyAV decodes the names in a header, and those may be damaged too
    if isinstance(error, av.error.DecoderNotFoundError):
        return "FFmpeg has no decoder for it"
    if isinstance(error, OSError) and error.errno == errno.EPERM:
        return "FFmpeg refuses it: it may be encrypted, or point to other files"
    return str(getattr(error, "strerror", None) or error)
