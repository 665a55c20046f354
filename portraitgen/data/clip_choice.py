"""What of a clip an example shows: a window, a reference, frames from before it, the sound around it."""

from collections.abc import Sequence
from fractions import Fraction
from typing import NamedTuple

import numpy as np

from portraitgen.data.catalog import Catalog
from portraitgen.data.clips import ClipWindows, Window, run_before
from portraitgen.data.features.reader import FeatureReader
from portraitgen.data.motion import History, MotionFrames
from portraitgen.data.reader import ClipReader
from portraitgen.faces.measure import mouth_closed_frame
from portraitgen.media.audio import frame_audio_window


class Chosen(NamedTuple):
    """A window of a clip, and the motion frames before it where there are to be some."""

    window: Window
    history: History | None

    def groups(self) -> dict[str, np.ndarray]:
        """The frames that are shown, by the name of their group."""
        groups = {"frames": self.window.frames}
        if self.window.reference is not None:
            groups["reference"] = np.array([self.window.reference])
        if self.history is not None:
            groups["motion"] = self.history.frames[self.history.found]
        return groups


class ClipChoice:
    """Chooses of the clips of a catalog, by a generator of random numbers and nothing else.

    Args:
        catalog: the clips.
        windows: which there are.
        motion: which frames from before them; None for none.
        clip_frames, stride, sound_margin: see ClipExamples.
        features: those that are read with the clips: they may restrict windows and people.
    """

    def __init__(
        self,
        catalog: Catalog,
        windows: ClipWindows,
        reader: ClipReader,
        *,
        motion: MotionFrames | None,
        clip_frames: int,
        stride: int,
        sound_margin: int,
        features: Sequence[FeatureReader],
    ) -> None:
        self._catalog, self._windows, self._reader = catalog, windows, reader
        self._motion, self._stride, self._sound_margin = motion, stride, sound_margin
        self._of_faces = [feature for feature in features if feature.kind.unit == "face"]
        self._restrictions = [feature.window_starts for feature in features if feature.restricts_windows]
        self.audio_frames = clip_frames * stride + 2 * sound_margin
        """Frames whose sound is given."""

    def choose(self, shard: int, row: int, rng: np.random.Generator) -> Chosen:
        """What of a clip is shown."""
        index = self._catalog.indexes[shard]
        num_frames, runs = int(index.num_frames[row]), index.clip_runs(row)
        for feature in self._of_faces:
            runs = runs[np.isin(runs[:, 0], feature.faces(shard, row)[:, 0])]
        packets = index.packets(row)
        keyframes = np.ones(num_frames, bool) if packets is None else packets.keyframes
        starts = None
        if self._restrictions:
            starts = np.logical_and.reduce([allowed(shard, row) for allowed in self._restrictions])
        window = self._windows.choose(num_frames, runs, keyframes, rng, starts)
        if self._windows.reference == "neutral":
            window = window._replace(reference=self._neutral_frame(shard, row, window.track))
        if self._motion is None:
            return Chosen(window, None)
        first = int(window.frames[0])
        run_start = run_before(runs, window.track, first)
        return Chosen(window, self._motion.before(first, stride=self._stride, run_start=run_start, rng=rng))

    def sound(self, shard: int, row: int, frames: np.ndarray) -> tuple[int, int]:
        """First sample of the sound that is given with a window, and how many there are."""
        rate = Fraction(*self._catalog.indexes[shard].fps[row].tolist())
        begin, end = frame_audio_window(int(frames[0]) - self._sound_margin, self.audio_frames, fps=rate)
        return begin, end - begin

    def heard(self, feature: FeatureReader, frames: np.ndarray, num_frames: int) -> np.ndarray:
        """The frames whose values are given: those of the window, of speech those around it too."""
        margin = self.margin(feature)
        if not margin:
            return frames
        return np.arange(frames[0] - margin, frames[-1] + margin + 1).clip(0, num_frames - 1)

    def margin(self, feature: FeatureReader) -> int:
        """Frames before and after the window whose values are given too."""
        return self._sound_margin if feature.kind.batch_key == "speech" else 0

    def _neutral_frame(self, shard: int, row: int, track: int) -> int:
        """Of all valid frames of a person the one with the most closed mouth."""
        runs = self._catalog.indexes[shard].clip_runs(row)
        frames = np.concatenate([np.arange(start, end) for of, start, end in runs.tolist() if of == track])
        landmarks = self._reader.landmarks(shard, row, track, frames)
        return int(frames[mouth_closed_frame(landmarks, self._catalog.landmark_scheme)])
