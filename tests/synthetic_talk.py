"""Test data with ground truth: a portrait whose mouth opens as a generated, speech-like sound is loud.

    python -m tests.synthetic_talk videos/ [--videos 8] [--seconds 8] [--seed 0]

No real speech: the face is that of the astronaut whom scikit-image brings (NASA, public domain), moved by a
warp about landmarks that dlib finds; the sound is a hum of syllables. How far the mouth is open in each frame
is written beside each video, talk_000.json beside talk_000.mp4, so that what a model has learned of lip-sync
can be measured. `prepare.py` prepares them like any video.
"""

import argparse
import json
from pathlib import Path

import cv2
import numpy as np
import skimage.data

from portraitgen.faces.dlib import DlibBackend
from portraitgen.media.encode import write_video

FPS, SAMPLE_RATE, SIDE = 25, 16_000, 256
_CORNER = (0, 100)  # of the square of the astronaut's picture that is shown
_REACH = 0.9  # how far the lower lip moves, in shares of the distance from mouth to chin
_CAVITY = np.array([45, 20, 25], np.float32)


def speech_envelope(num_samples: int, rng: np.random.Generator) -> np.ndarray:
    """Loudness in [0, 1] of syllables of random length and strength, with pauses: float64 [N]."""
    envelope = np.zeros(num_samples)
    at = int(rng.uniform(0.05, 0.3) * SAMPLE_RATE)
    while at < num_samples:
        length = int(rng.uniform(0.14, 0.40) * SAMPLE_RATE)
        bump = rng.uniform(0.35, 1.0) * np.sin(np.linspace(0, np.pi, length)) ** 2
        end = min(at + length, num_samples)
        envelope[at:end] = np.maximum(envelope[at:end], bump[: end - at])
        pause = rng.uniform(0.3, 0.8) if rng.random() < 0.15 else rng.uniform(-0.06, 0.08)
        at += max(int(length + pause * SAMPLE_RATE), 1)
    return envelope


def voice(envelope: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A hum of that loudness, its pitch and colour drifting: float32 [N] in [-1, 1]."""
    time = np.arange(len(envelope)) / SAMPLE_RATE
    pitch = rng.uniform(110, 170) * (1 + 0.1 * np.sin(2 * np.pi * 0.7 * time + rng.uniform(0, 6)))
    phase = 2 * np.pi * np.cumsum(pitch) / SAMPLE_RATE
    formant = 700 + 300 * np.sin(2 * np.pi * 1.3 * time + rng.uniform(0, 6))
    hum = np.zeros(len(envelope))
    for number in range(1, 16):
        hum += np.exp(-(((number * pitch - formant) / 500) ** 2)) * np.sin(number * phase)
    return (0.5 * envelope * hum / np.abs(hum).max()).astype(np.float32)


def mouth_openings(envelope: np.ndarray) -> np.ndarray:
    """How far the mouth is open in each frame, 0 to 1: the mean of the loudness while it is shown."""
    return envelope.reshape(-1, SAMPLE_RATE // FPS).mean(axis=1)


class Portrait:
    """The astronaut, whose mouth can be opened and whose head can be held otherwise."""

    def __init__(self) -> None:
        top, left = _CORNER
        self.picture = skimage.data.astronaut()[top : top + SIDE, left : left + SIDE].astype(np.float32)
        (face, *_) = DlibBackend().detect(self.picture[..., ::-1].astype(np.uint8).copy())
        points = face.landmarks
        corners, lip, self.chin = points[[60, 64]], points[[67, 66, 65]], points[8]
        self.middle = points[30]
        columns = np.arange(SIDE, dtype=np.float32)
        curve = np.polyfit(*np.concatenate([corners[:1], lip, corners[1:]]).T, 2)
        self.line = np.polyval(curve, columns).astype(np.float32)  # the edge that the lower lip moves from
        centre, half = corners[:, 0].mean(), 0.62 * np.ptp(corners[:, 0])
        self.across = np.cos(np.clip((columns - centre) / half, -1, 1) * np.pi / 2) ** 2
        self.reach = _REACH * (self.chin[1] - self.line[int(centre)])

    def frame(self, opening: float, *, shift: np.ndarray, turn: float) -> np.ndarray:
        """uint8 [SIDE, SIDE, 3] RGB.

        Args:
            opening: 0, as in the photo, to 1.
            shift: of the head in pixels, [2].
            turn: of the head in the plane, in degrees.
        """
        rows, columns = np.mgrid[:SIDE, :SIDE].astype(np.float32)
        drop = 0.5 * opening * self.reach * self.across[None]  # [1, SIDE], at the lip
        below = np.maximum(rows - self.line[None], 0)
        depth = self.chin[1] + 12 - self.line[None]
        # Rows below the lip are squeezed towards the chin, which hardly moves.
        source = np.where(below > drop, self.line[None] + (below - drop) * depth / (depth - drop), rows)
        source = np.where(below > depth, rows, source).astype(np.float32)
        moved = cv2.remap(self.picture, columns, source, cv2.INTER_LINEAR)
        inside = (below > 0) & (below <= drop)
        moved[inside] = _CAVITY
        held = cv2.getRotationMatrix2D((float(self.middle[0]), float(self.middle[1])), turn, 1.0)
        held[:, 2] += shift
        shown = cv2.warpAffine(moved, held, (SIDE, SIDE), borderMode=cv2.BORDER_REPLICATE)
        return shown.clip(0, 255).astype(np.uint8)


def write_talk(path: Path, *, portrait: Portrait, seconds: float, seed: int) -> np.ndarray:
    """Write the video `path` (.mp4) and, as .json, its openings, which are given back: float64 [T]."""
    rng = np.random.default_rng(seed)
    count = round(seconds * FPS)
    envelope = speech_envelope(count * SAMPLE_RATE // FPS, rng)
    sound, openings = voice(envelope, rng), mouth_openings(envelope)
    time = np.arange(count) / FPS
    sways = [
        amplitude * np.sin(2 * np.pi * rng.uniform(0.15, 0.4) * time + rng.uniform(0, 6))
        for amplitude in (4.0, 3.0, 2.5)
    ]
    frames = (
        portrait.frame(opening, shift=np.array([sways[0][number], sways[1][number]]), turn=sways[2][number])
        for number, opening in enumerate(openings.tolist())
    )
    write_video(path, frames, fps=FPS, audio=sound, sample_rate=SAMPLE_RATE)
    path.with_suffix(".json").write_text(json.dumps({"opening": openings.tolist()}))
    return openings


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--videos", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    portrait = Portrait()
    for number in range(given.videos):
        path = given.out / f"talk_{given.seed + number:03d}.mp4"
        write_talk(path, portrait=portrait, seconds=given.seconds, seed=given.seed + number)
        print(path)


if __name__ == "__main__":
    main()
