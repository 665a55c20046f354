"""First pass over a video: every face of every frame, the cuts, the damage. No picture is kept."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import BinaryIO

import numpy as np

from portraitgen.data.prepare.frame_rate import resample_frames
from portraitgen.data.prepare.sources import Source, SourceError
from portraitgen.data.prepare.stored_faces import StoredFaces
from portraitgen.faces.backend import FaceBackend
from portraitgen.faces.types import Face
from portraitgen.media.clock import MAX_PAUSE_S
from portraitgen.media.decode import VideoInfo, iter_frames, probe_video
from portraitgen.media.shots import scene_cuts


@dataclass(frozen=True, slots=True, eq=False)
class Scan:
    """What is known of a video: its file and, at the constant rate `fps`, its T frames from `start_s` on.

    `faces` lists those of each frame, `cuts` the first frames of new shots, `jumps` those before which the
    time stamps run back or jump, `damaged` is bool [T].
    """

    info: VideoInfo
    fps: Fraction
    start_s: float
    faces: StoredFaces
    cuts: list[int]
    jumps: list[int]
    damaged: np.ndarray


def scan_video(
    source: Source,
    backend: FaceBackend,
    *,
    fps: Fraction | None,
    file: BinaryIO,
    embed_every: int = 0,
    frame_done: Callable[[], None] = lambda: None,
) -> Scan:
    """Look for faces in every frame of a video brought to `fps` (None: the source's own mean rate).

    Damaged frames are not searched: what the decoder made up there is no face to train on.

    Args:
        file: open for reading and writing, empty; the faces are kept there as long as it is open.
        embed_every: compute the identity embedding of every face in every such frame, 0 in none. Nobody
            becomes somebody else: a few embeddings a second tell as much as one a frame, which would add a
            third to the time.
        frame_done: called after every frame, for progress.

    Raises:
        VideoError: the file is no video, is cut short, or is damaged beyond reading.
        SourceError: its pictures are not all of one size.
    """
    info = probe_video(source.path, name=source.name)
    fps = fps or info.fps
    start_s = 0.0
    stored = StoredFaces(file)
    damaged: list[bool] = []
    jumps: list[int] = []

    def searched() -> Iterator[np.ndarray]:
        nonlocal start_s
        previous: np.ndarray | None = None
        faces: list[Face] = []
        first_shown = 0
        frames = iter_frames(source.path, name=source.name)
        for frame in resample_frames(frames, source_fps=info.fps, fps=fps):
            if not damaged:
                start_s = frame.time_s
            if frame.image.shape[:2] != (info.height, info.width):
                raise SourceError(source, "decode", "its picture changes size on the way; split it there")
            if frame.jumped and frame.image is not previous:
                jumps.append(frame.index)
            if frame.corrupt:
                faces = []
            elif frame.image is not previous:  # else it is repeated to reach the rate
                embed = embed_every > 0 and frame.index % embed_every == 0
                faces = backend.detect(frame.image, embed=embed)
                first_shown = frame.index
            elif frame.index - first_shown >= MAX_PAUSE_S * fps:
                faces = []  # a still is no video
            stored.append(faces)
            damaged.append(frame.corrupt)
            previous = frame.image
            frame_done()
            yield frame.image

    cuts = scene_cuts(searched(), fps=fps)
    return Scan(info, fps, start_s, stored, cuts, jumps, np.array(damaged))
