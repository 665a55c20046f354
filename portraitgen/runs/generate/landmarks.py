"""Video to landmarks: find the face of a video or picture, write its landmarks, and draw them."""

import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from hydra.utils import instantiate
from omegaconf import DictConfig

from portraitgen.faces.drawing import draw_landmarks
from portraitgen.faces.landmark_file import save_landmarks
from portraitgen.faces.landmark_sequence import LandmarkSequence
from portraitgen.media.encode import write_video
from portraitgen.media.files import replace_file, writable_folder
from portraitgen.metrics.report.panels import encode_png
from portraitgen.runs.generate.driving.clip import SOUND_RATE
from portraitgen.runs.generate.driving.inputs import exact_rate
from portraitgen.runs.generate.driving.motion import PICTURE, file_kind, read_motion, with_mesh

log = logging.getLogger(__name__)

_DRAWN_AT_ONCE = 32


def find_landmarks(config: DictConfig) -> None:
    """Write `<out>/landmarks/<name>.npz` and the drawn `<out>/drawings/<name>.mp4` (or .png) of `driving`.

    Raises:
        ValueError: `driving` cannot be read or shows no face.
    """
    driving = Path(config.driving)
    out = writable_folder(Path(config.out))
    backend = with_mesh(instantiate(config.faces, _convert_="all"))
    motion = read_motion(driving, backend, fps=exact_rate(config.fps))
    landmarks = motion.landmarks
    picture = file_kind(driving) == PICTURE
    file = out / "landmarks" / f"{driving.stem}.npz"
    drawing = out / "drawings" / f"{driving.stem}{'.png' if picture else '.mp4'}"
    for path in (file, drawing):
        path.parent.mkdir(exist_ok=True)
    save_landmarks(file, landmarks)
    frames = _drawn(landmarks, raw=bool(config.raw_points))
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
