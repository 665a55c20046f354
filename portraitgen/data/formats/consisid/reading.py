"""What a clip's own file says: pictures encoded for a shard, damage, sound, and landmarks of its people."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from portraitgen.data.formats.consisid.framed import framed_track, framing_of
from portraitgen.data.sample import ClipRegion, ClipTrack, DataError
from portraitgen.faces.association import match_parts
from portraitgen.faces.backend import FaceBackend
from portraitgen.faces.types import Face
from portraitgen.media.audio import encode_wav, frame_audio_window, read_audio
from portraitgen.media.container import VideoError
from portraitgen.media.decode import VideoInfo, iter_frames
from portraitgen.media.encode import encode_clip
from portraitgen.media.framing import Framing

SIDE = 4
"""Sides of a sample's picture are multiples of it."""
_SAMPLE_RATE = 16_000


class ClipReading:
    """One pass over a clip's video: encoded for a shard, its damage, and where `backend` sees the people.

    Attributes:
        video: mp4 with sides that are multiples of 4, or of the size that was asked for.
        size: (height, width) of the original.
        framing: what of it the video shows; None: all, see `import_clip`.
        start_s: time of its first frame.
    """

    def __init__(
        self,
        path: Path,
        info: VideoInfo,
        people: Mapping[int, ClipTrack],
        backend: FaceBackend | None,
        *,
        size: tuple[int, int] | None = None,
    ) -> None:
        self._people, self._backend, self._wanted = people, backend, size
        self.framing: Framing | None = None
        self._intact: list[bool] = []
        self._faces: dict[int, dict[int, Face]] = {number: {} for number in people}
        self._sizes: set[tuple[int, int]] = set()
        self.start_s = 0.0
        self.video = encode_clip(self._pictures(path), fps=info.fps)
        if len(self._intact) != info.num_frames or len(self._sizes) != 1:
            raise DataError(
                f"{path}: claims {info.num_frames} frames of one size, gives {len(self._intact)} of "
                f"{sorted(self._sizes)}; encode it anew"
            )
        (self.size,) = self._sizes

    def _pictures(self, path: Path) -> Iterator[np.ndarray]:
        for frame in iter_frames(path, square_pixels=False):  # whose boxes and masks are of stored pixels
            if frame.index == 0:
                self.start_s = frame.time_s
            if not frame.corrupt and self._backend is not None and frame.index < self._num_frames():
                self._look(frame.image, frame.index, self._backend)
            self._intact.append(not frame.corrupt)
            height, width = frame.image.shape[:2]
            self._sizes.add((height, width))
            if self._wanted is not None and self.framing is None:
                main = next(iter(self._people.values()))
                self.framing = framing_of(main, image_size=(height, width), size=self._wanted)
            if self.framing is not None:
                yield self.framing.cut(frame.image)
                continue
            yield np.pad(frame.image, ((0, -height % SIDE), (0, -width % SIDE), (0, 0)), mode="edge")

    def _num_frames(self) -> int:
        return len(next(iter(self._people.values())).boxes)

    def _look(self, image: np.ndarray, frame: int, backend: FaceBackend) -> None:
        shown = [number for number, track in self._people.items() if not np.isnan(track.boxes[frame]).any()]
        if not shown:
            return
        faces = backend.detect(image)
        boxes = np.array([face.box for face in faces]).reshape(-1, 4)
        whose = match_parts(boxes, np.array([self._people[number].boxes[frame] for number in shown]))
        for face, person in whose.items():
            self._faces[shown[person]][frame] = faces[face]

    def finished(self, number: int, track: ClipTrack) -> ClipTrack:
        """A track with what the video says: damaged frames are not valid, and those without landmarks; in
        pixels of `video`."""
        looked_at = self._looked_at(number, track)
        return looked_at if self.framing is None else framed_track(looked_at, self.framing)

    def _looked_at(self, number: int, track: ClipTrack) -> ClipTrack:
        intact = np.array(self._intact)

        def undamaged(region: ClipRegion | None) -> ClipRegion | None:
            return None if region is None else replace(region, valid=region.valid & intact)

        track = replace(
            track,
            valid=track.valid & intact,
            head=undamaged(track.head),
            person=undamaged(track.person),
        )
        if self._backend is None:
            return track
        landmarks = np.full((len(intact), self._backend.num_landmarks, 2), np.nan, np.float32)
        keypoints = track.keypoints.copy()
        for frame, face in self._faces[number].items():
            landmarks[frame], keypoints[frame] = face.landmarks, face.keypoints
        found = ~np.isnan(landmarks).any(axis=(1, 2))
        return replace(track, landmarks=landmarks, keypoints=keypoints, valid=track.valid & found)


def clip_sound(path: Path, info: VideoInfo, start_s: float, note: Callable[[str, str], None]) -> bytes | None:
    """The sound as long as the picture, a WAV of 16 kHz; None where there is none that can be used."""
    try:
        sound = read_audio(path, sample_rate=_SAMPLE_RATE, name=path.name) if info.has_audio else None
    except VideoError as error:
        note("audio", f"{error}; its clip is silent")
        return None
    if sound is None:
        return None
    begin, end = frame_audio_window(0, info.num_frames, fps=info.fps, sample_rate=_SAMPLE_RATE)
    before = round(start_s * _SAMPLE_RATE)
    window = np.pad(sound, (max(-before, 0), 0))[max(before, 0) :][begin:end]
    return encode_wav(np.pad(window, (0, end - begin - len(window))), sample_rate=_SAMPLE_RATE)
