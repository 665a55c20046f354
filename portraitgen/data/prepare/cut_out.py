"""One clip while the frames of its video go by: cut out, encoded, measured."""

from collections import defaultdict
from collections.abc import Mapping
from contextlib import ExitStack
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from portraitgen.data.prepare.clip import PlannedClip
from portraitgen.data.prepare.scores import picture_scores, track_scores
from portraitgen.data.prepare.speech import speech_share
from portraitgen.data.sample import ClipSample, ClipTrack, make_key
from portraitgen.faces.types import Track
from portraitgen.media.audio import SAMPLE_RATE, StoredSound, encode_wav, frame_audio_window
from portraitgen.media.decode import Frame
from portraitgen.media.encode import VideoWriter


class ClipCut:
    """Takes the frames of its clip one by one and gives the sample at the end.

    Args:
        clip: what to cut out.
        track: of it, in pixels of the source.
        folder: for the encoded clip until the sample takes it; so no frames need to be kept in memory.
    """

    def __init__(self, clip: PlannedClip, track: Track, folder: Path, *, fps: Fraction, crf: int) -> None:
        self.clip = clip
        self._track, self._cropped = track, clip.cropped(track)
        self._fps = fps
        self._path = folder / f"{clip.start}-{clip.person}.mp4"
        self._open = ExitStack()
        height, width = clip.crop.size
        self._writer = self._open.enter_context(
            VideoWriter(self._path, fps=fps, width=width, height=height, crf=crf)
        )
        self._boxes = dict(zip(track.frames.tolist(), self._cropped.boxes, strict=True))
        self._measured: dict[str, list[float]] = defaultdict(list)

    def add(self, frame: Frame) -> None:
        """Take the next frame of the video, of those from `clip.start` to `clip.stop`."""
        image = np.ascontiguousarray(self.clip.crop.part(frame.image))
        self._writer.write(image)
        if frame.index in self._boxes:
            for name, value in picture_scores(image, self._boxes[frame.index]).items():
                self._measured[name].append(value)

    def sample(
        self, source_key: str, *, origin: Mapping[str, Any], sound: StoredSound | None, landmark_scheme: str
    ) -> ClipSample:
        """Finish the clip, after its last frame.

        Args:
            origin: the `source` entry of the video's samples, still without times.
            sound: of the video from its first frame on, at 16 kHz, or None.
        """
        self._open.close()
        clip, fps = self.clip, self._fps
        num_frames = clip.stop - clip.start
        video = self._path.read_bytes()
        self._path.unlink()
        begin_s, end_s = clip.start / fps, clip.stop / fps
        person = f"-p{clip.person}" if clip.person > 1 else ""
        scores = track_scores(
            self._track, num_frames=num_frames, fps=fps, side=min(clip.crop.height, clip.crop.width)
        )
        scores |= {name: float(np.median(values)) for name, values in self._measured.items()}
        window = None if sound is None else self._window(sound)
        if sound is not None and window is not None:
            scores["speech_share"] = speech_share(window)
            scores["sound_gaps"] = sound.mends.gaps
        valid = clip.valid(self._cropped)
        return ClipSample(
            key=make_key(source_key + person, round(1000 * begin_s)),
            num_frames=num_frames,
            fps=fps,
            width=clip.crop.size[1],
            height=clip.crop.size[0],
            tracks=(ClipTrack.from_track(self._cropped, num_frames, valid=valid),),
            landmark_scheme=landmark_scheme,
            affine=clip.crop.affine,
            source={**origin, "t0": float(begin_s), "t1": float(end_s)},
            video=video,
            audio=None if window is None else encode_wav(window, sample_rate=SAMPLE_RATE),
            scores=scores,
        )

    def _window(self, sound: StoredSound) -> np.ndarray:
        """The clip's sound, float32, with silence where the recording is shorter than the picture."""
        count = self.clip.stop - self.clip.start
        begin, end = frame_audio_window(self.clip.start, count, fps=self._fps, sample_rate=SAMPLE_RATE)
        return sound.window(begin, end)
