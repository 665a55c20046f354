"""Seeded folders of files that cameras, phones, strangers and crashes could have left, and worse."""

import json
import os
import random
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from tests.data.prepare.test_video import scene

SECONDS = 0.8
_KINDS = {
    "mp4": ("libx264", "aac"),
    "mkv": ("mpeg4", "libopus"),
    "ts": ("mpeg2video", "mp2"),
    "avi": ("mjpeg", "pcm_s16le"),
    "flv": ("flv", "libmp3lame"),
    "webm": ("libvpx", "libopus"),
    "mov": ("mpeg4", "pcm_s16le"),
}


def talk(
    path: Path,
    random_: random.Random,
    *,
    size: tuple[int, int] = (96, 160),
    rate: int = 25,
    sound_rate: int = 48_000,
    layout: str = "mono",
    start_s: float = 0.0,
) -> bytes:
    """A short video of a drawn face with noise, in the container that the suffix says; its bytes."""
    video, audio = _KINDS[path.suffix[1:]]
    with av.open(str(path), "w") as container:
        pictures = container.add_stream(video, rate=rate)
        pictures.height, pictures.width = size
        pictures.pix_fmt = "yuvj420p" if video == "mjpeg" else "yuv420p"
        sound = container.add_stream(audio, rate=sound_rate, layout=layout)
        noise = np.random.default_rng(random_.randrange(1 << 30)).integers(0, 40, (*size, 3), np.uint8)
        for number in range(round(SECONDS * rate)):
            image = np.maximum(scene((30 + number, 40), size=size), noise)
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = number + round(start_s * rate), Fraction(1, rate)
            container.mux(pictures.encode(frame))
        container.mux(pictures.encode(None))
        channels = av.AudioLayout(layout).nb_channels
        samples = np.random.default_rng(0).normal(0, 0.1, (channels, round(SECONDS * sound_rate)))
        whole = av.AudioFrame.from_ndarray(samples.astype(np.float32), format="fltp", layout=layout)
        whole.rate, whole.pts = sound_rate, round(start_s * sound_rate)
        resampler = av.AudioResampler(
            format=sound.codec_context.format.name,
            layout=layout,
            rate=sound_rate,
            frame_size=sound.codec_context.frame_size or 1024,
        )
        for block in [*resampler.resample(whole), *resampler.resample(None)]:
            container.mux(sound.encode(block))
        container.mux(sound.encode(None))
    return path.read_bytes()


def strange_sound(folder: Path, random_: random.Random) -> None:
    """Packets of sound lost, doubled, moved in time, emptied or filled with noise; or the file damaged."""
    suffix = random_.choice([*_KINDS])
    whole = folder / f".whole.{suffix}"
    layout = random_.choice(("mono", "stereo"))
    data = talk(
        whole,
        random_,
        layout=layout,
        sound_rate=random_.choice((48_000, 48_000, 24_000)) if suffix in ("mkv", "webm", "mp4") else 44_100,
    )
    path = folder / f"talk.{suffix}"
    if random_.random() < 0.4:
        path.write_bytes(damaged(data, random_))
        return
    way = random_.choice(("lost", "doubled", "moved", "backwards", "noise", "cut", "none", "huge"))
    with av.open(str(whole)) as source, av.open(str(path), "w") as sink:
        streams = {each.index: sink.add_stream_from_template(each) for each in source.streams}
        shift = 0
        for number, packet in enumerate(each for each in source.demux() if each.size):
            heard = packet.stream.type == "audio"
            packet.stream = streams[packet.stream.index]
            if heard and random_.random() < 0.3:
                if way == "lost" or way == "none":
                    continue
                if way == "noise":
                    noisy = av.Packet(random_.randbytes(random_.choice((1, packet.size, 3 * packet.size))))
                    noisy.pts, noisy.dts, noisy.time_base = packet.pts, packet.dts, packet.time_base
                    noisy.stream = packet.stream
                    packet = noisy
                if way == "moved":
                    shift += random_.choice((-3, -1, 1, 40)) * 1000
                if way == "huge":
                    shift = 1 << random_.choice((20, 30))
            if heard and packet.pts is not None:
                packet.pts = packet.dts = max(packet.pts + shift, 0)
            try:
                sink.mux(packet)
                if heard and way == "doubled" and number % 3 == 0:
                    sink.mux(packet)
            except (av.error.FFmpegError, OverflowError):
                continue  # what a muxer refuses no file holds
    if way == "cut":
        data = path.read_bytes()
        path.write_bytes(data[: random_.randrange(len(data))])


def changing_on_the_way(folder: Path, random_: random.Random) -> None:
    """Pieces of different size, rate, layout and clock, one after the other, as recorders leave them."""
    suffix = random_.choice(("ts", "ts", "ts", "flv", "avi", "mp4"))
    pieces = []
    for number in range(random_.choice((2, 2, 3))):
        piece = folder / f".piece{number}.{suffix}"
        pieces.append(
            talk(
                piece,
                random_,
                size=random_.choice(((96, 160), (96, 160), (96, 160), (144, 192), (48, 320))),
                rate=random_.choice((25, 25, 50, 30)),
                sound_rate=random_.choice((44_100, 44_100, 48_000) if suffix != "flv" else (44_100, 22_050)),
                layout=random_.choice(("mono", "stereo")),
                start_s=random_.choice(
                    (0.0, 0.0, SECONDS * number, 5.0, 95_000.0 if suffix == "ts" else 9.0)
                ),
            )
        )
        if random_.random() < 0.2:
            pieces[-1] = damaged(pieces[-1], random_)
    (folder / f"talk.{suffix}").write_bytes(b"".join(pieces))


def strange_captions(folder: Path, random_: random.Random) -> None:
    """Captions and tables of any bytes and kind beside a sound video."""
    talk(folder / "talk.avi", random_)
    caption = folder / "talk.txt"
    way = random_.randrange(8)
    if way == 0:
        caption.write_bytes(random_.randbytes(random_.choice((1, 50, 70_000))))
    elif way == 1:
        caption.write_bytes(
            "a man\0 who \ufeff speaks \x1b[31m".encode(random_.choice(("utf-8", "utf-16", "utf-32")))
        )
    elif way == 2:
        caption.mkdir()
    elif way == 3:
        caption.symlink_to(random_.choice(("talk.txt", "/dev/zero", "nowhere", "/dev/null", ".")))
    elif way == 4:
        os.mkfifo(caption)
    elif way == 5:
        caption.write_text("word " * random_.choice((0, 100, 12_000)))
    elif way == 6:
        caption.write_bytes(b"\xed\xa0\x80 half a character \xf0\x9f")
    else:
        value = random_.choice((None, 1, [], {"a": 1}, "\ud800", "a" * 100_000, "\0", "", "x\ny", True))
        row = {"file": "talk.avi", random_.choice(("caption", "identity", "caption ")): value}
        text = json.dumps(row) + random_.choice(("", "\n", "\n{", "\n" * 100, "\n" + json.dumps(row)))
        (folder / "labels.jsonl").write_bytes(
            damaged(text.encode(), random_) if random_.random() < 0.3 else text.encode()
        )


def strange_names(folder: Path, random_: random.Random) -> None:
    """Names of any bytes, for files and folders; links to themselves, to nothing and to devices."""
    data = talk(folder / ".whole.avi", random_)
    for _ in range(4):
        way = random_.randrange(6)
        if way == 0:
            name = bytes(
                random_.choice([each for each in range(1, 256) if each != 47])
                for _ in range(random_.randrange(1, 60))
            )
        elif way == 1:
            letters = "aÀ日😀 .:%-#?'\"\\|*<>&;$()[]{}~`^=@!,+\u0301\u200f\u202f\u3000"
            name = "".join(random_.choice(letters) for _ in range(random_.randrange(1, 30))).encode()
        elif way == 2:
            name = random_.choice(
                (b"a" * 250, b".", b"..a", b"-", b"CON", b"nul", b"a.tar", b"a-p2", b"A", b"a", b"x.mp4")
            )
        else:
            name = random_.choice((b"talk", b"Talk", b"talk ", b"talk.avi"))
        name = name.replace(b"/", b"_")[:250]
        parent = os.fsencode(folder)
        if way == 3:
            parent += b"/" + name
            try:
                os.makedirs(parent, exist_ok=True)
            except OSError:
                continue
            if os.path.islink(parent):
                continue  # what lies behind it is in another folder
        path = (
            parent
            + b"/"
            + name
            + random_.choice((b".avi", b".AVI", b".mp4", b".jpg", b".txt", b""))[: 255 - len(name)]
        )
        try:
            if way == 4:
                os.symlink(random_.choice((name, b"nowhere", b"/dev/zero", b"..", b".")), path)
            elif way == 5:
                os.mkfifo(path)
            else:
                with open(path, "wb") as file:
                    file.write(data)
        except OSError:
            continue  # what a file system refuses is in no folder


def strange_photos(folder: Path, random_: random.Random) -> None:
    """Pictures of odd modes, sizes and formats, whole or damaged."""
    from PIL import Image

    mode = random_.choice(
        ("RGB", "RGBA", "L", "LA", "P", "1", "I;16", "F", "CMYK", "YCbCr", "LAB", "I", "HSV")
    )
    size = random_.choice(((64, 96), (1, 1), (3, 900), (900, 3), (160, 96), (2, 2)))
    image = Image.fromarray(
        scene((30, 40))
        if size == (160, 96)
        else np.random.default_rng(0).integers(0, 255, (*size[::-1], 3), np.uint8)
    )
    suffix = random_.choice(("png", "jpg", "tif", "bmp", "webp", "gif", "avif"))
    path = folder / f"photo.{suffix}"
    try:
        image.convert(mode).save(path)
    except (OSError, ValueError, KeyError):
        image.convert("RGB").save(path)
    if random_.random() < 0.6:
        path.write_bytes(damaged(path.read_bytes(), random_))


def damaged(data: bytes, random_: random.Random) -> bytes:
    """Bytes with some changed, zeroed, repeated or missing."""
    changed = bytearray(data)
    for _ in range(random_.choice((1, 3, 20))):
        place = random_.randrange(len(changed) if random_.random() < 0.7 else min(600, len(changed)))
        length = random_.choice((1, 4, 200))
        way = random_.random()
        if way < 0.5:
            changed[place : place + length] = random_.randbytes(length)
        elif way < 0.7:
            changed[place : place + length] = bytes(length)
        elif way < 0.85:
            del changed[place : place + length]
        else:
            changed[place:place] = changed[place : place + length]
        if not changed:
            return b""
    return bytes(changed[: random_.randrange(1, len(changed) + 1)] if random_.random() < 0.25 else changed)


KINDS = {
    "sound": strange_sound,
    "changes on the way": changing_on_the_way,
    "captions": strange_captions,
    "names": strange_names,
    "photos": strange_photos,
}
