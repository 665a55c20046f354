"""Video to landmarks: find the face of a video or picture, write its landmarks, and draw them."""

import logging
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from hydra.core.config_store import ConfigStore
from hydra.utils import instantiate
from omegaconf import MISSING, DictConfig

from portraitgen.faces.drawing import draw_landmarks
from portraitgen.faces.landmark_file import save_landmarks
from portraitgen.faces.landmark_sequence import LandmarkSequence
from portraitgen.faces.motion import PICTURE, file_kind, read_motion, with_mesh
from portraitgen.media.encode import write_video
from portraitgen.media.files import replace_file, writable_folder
from portraitgen.media.sound import SOUND_RATE
from portraitgen.metrics.report.panels import encode_png
from portraitgen.runs.config.check import check_config
from portraitgen.runs.config.schema import PathsConfig
from portraitgen.runs.progress import progress

log = logging.getLogger(__name__)

_DRAWN_AT_ONCE = 32


@dataclass
class LandmarksConfig:
    """What `generate.py landmarks` reads."""

    driving: str = MISSING
    """Video, picture or landmark file (.npz)."""
    out: str = MISSING
    """Folder for the results."""
    fps: float | None = None
    """Frames a second; null: those of the video."""
    raw_points: bool = False
    """Draw MediaPipe's own points instead of corrected ones."""
    faces: Any = MISSING
    """Face backend."""
    paths: PathsConfig = field(default_factory=PathsConfig)


ConfigStore.instance().store(name="generate_landmarks_schema", node=LandmarksConfig)


def find_landmarks(config: DictConfig) -> None:
    """Write `<out>/landmarks/<name>.npz` and the drawn `<out>/drawings/<name>.mp4` (or .png) of `driving`.

    Raises:
        ValueError: `driving` cannot be read or shows no face.
    """
    check_config(config)
    driving, fps = Path(config.driving), config.fps
    if fps is not None and not 0 < fps < math.inf:
        raise ValueError(f"fps={fps}: give frames a second, or null for those of the video")
    if not driving.is_file():
        raise ValueError(f"driving={driving}: no such file")
    out = writable_folder(Path(config.out))
    backend = with_mesh(instantiate(config.faces, _convert_="all"))
    rate = None if fps is None else Fraction(fps).limit_denominator(100_000)
    with progress(f"{driving.name}: looking for the face") as on_frame:
        motion = read_motion(driving, backend, fps=rate, on_frame=on_frame)
    landmarks = motion.landmarks
    picture = file_kind(driving) == PICTURE
    file = out / "landmarks" / f"{driving.stem}.npz"
    drawing = out / "drawings" / f"{driving.stem}{'.png' if picture else '.mp4'}"
    for path in (file, drawing):
        path.parent.mkdir(exist_ok=True)
    save_landmarks(file, landmarks)
    frames = _drawn(landmarks, raw=config.raw_points)
    if picture:
        replace_file(drawing, encode_png(next(frames)))
    else:
        write_video(drawing, frames, fps=landmarks.fps, audio=motion.sound, sample_rate=SOUND_RATE)
    log.info(
        "%s: %d frame(s) of %s, the face found in %d: %s, drawn in %s",
        driving,
        len(landmarks),
        landmarks.scheme,
        int(landmarks.found.sum()),
        file,
        drawing,
    )


def _drawn(landmarks: LandmarkSequence, *, raw: bool) -> Iterator[np.ndarray]:
    """The drawings one by one, uint8 HWC, of the picture's size less an odd row or column."""
    height, width = landmarks.image_size
    canvas = (max(height - height % 2, 2), max(width - width % 2, 2))
    points = landmarks.positions(raw=raw)
    for start in range(0, len(points), _DRAWN_AT_ONCE):
        yield from draw_landmarks(
            points[start : start + _DRAWN_AT_ONCE],
            image_size=landmarks.image_size,
            canvas_size=canvas,
            scheme=landmarks.scheme,
        ).transpose(0, 2, 3, 1)
