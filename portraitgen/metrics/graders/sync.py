"""Do lips and sound belong together: SyncNet's judgement, with its weights."""

from hashlib import sha256

import numpy as np
from torch import Tensor

from portraitgen.metrics.grader import Chunk, Fact, GradedClip, Watch
from portraitgen.metrics.graders.weights import require, weights_facts
from portraitgen.metrics.mouth import UNVARYING, varies
from portraitgen.metrics.networks.syncnet import (
    SAMPLES_PER_FRAME,
    WEIGHTS,
    LipFeatures,
    SyncNet,
    embed_sound,
    load_syncnet,
    num_windows,
)
from portraitgen.metrics.scores import Grades, MetricInfo, missing_grades
from portraitgen.metrics.sync import MIN_WINDOWS, compare_shifts, too_short
from portraitgen.metrics.sync_crop import FaceCrops, frames_at_syncnet_rate, longest_track

_HOW = (
    "SyncNet (public weights) on the face that is followed longest, at 25 fps and 16 kHz, cut out as its "
    f"pipeline does; clips of at least {MIN_WINDOWS} windows"
)
METRICS = {
    "sync_c": MetricInfo("Sync-C", "", 2, True, f"{_HOW}: median minus least distance over shifts", "clip"),
    "sync_d": MetricInfo("Sync-D", "", 2, False, f"{_HOW}: least mean distance over shifts", "clip"),
    "sync_offset": MetricInfo(
        "Sync offset",
        " frames",
        1,
        None,
        f"{_HOW}: by how much the sound comes before the lips; behind them it is below 0",
        "clip",
    ),
    "sync_offset_error": MetricInfo(
        "ΔSync offset", " frames", 1, False, f"{_HOW}: how far the best shift is from 0", "clip"
    ),
}


class SyncGrader:
    """Sync-C, Sync-D and the offset, with its sign and without.

    The row of the true frames is what they can reach. A face that hardly moves can please SyncNet: read them
    beside the motion figures.

    Args:
        weights: syncnet_v2.model.

    Raises:
        ValueError: a file that does not fit.
        MissingWeights: no weights file.
    """

    metrics = METRICS

    def __init__(self, weights: str | None = None) -> None:
        path = require(weights, WEIGHTS, setting="weights")
        self.network = load_syncnet(path)
        self.facts: dict[str, Fact] = {
            **weights_facts(path),
            "crop": "longest track, scale 0.4, median of 13",
        }
        self._sounds = _Sounds(self.network)

    def grade(self, clip: GradedClip) -> Grades | Watch[None]:
        """The figures of a clip with sound."""
        shown = clip.pictures
        count = len(shown)
        if clip.audio is None:
            return missing_grades(METRICS, count, "no sound")
        if not varies(clip.audio):
            return missing_grades(METRICS, count, UNVARYING)
        chosen = frames_at_syncnet_rate(count, clip.fps)
        track = longest_track([shown.faces[frame] for frame in chosen], min_score=shown.backend.min_score)
        if track is None:
            return missing_grades(METRICS, count, "no face is followed through the clip")
        crops = FaceCrops(track)
        audio = clip.audio[track.frames[0] * SAMPLES_PER_FRAME :]
        windows = num_windows(len(crops.places), len(audio))
        lacking = too_short(windows)
        if lacking is not None:
            return missing_grades(METRICS, count, lacking)
        lips = LipFeatures(self.network, windows)
        wanted = chosen[crops.places]

        def see(chunk: Chunk) -> None:
            numbers = np.flatnonzero((wanted >= chunk.first) & (wanted < chunk.first + len(chunk.frames)))
            lips.put(crops.cut(chunk.frames[wanted[numbers] - chunk.first], numbers))

        def conclude(_: list[None]) -> Grades:
            score = compare_shifts(lips.end(), self._sounds.of(clip.video, audio, windows))
            figures = {"sync_c": score.confidence, "sync_d": score.distance}
            figures |= {"sync_offset": score.offset, "sync_offset_error": abs(score.offset)}
            return Grades({name: np.array(value) for name, value in figures.items()}, {})

        return Watch(see, conclude)


class _Sounds:
    """Features of the sounds of one video, each embedded once, however many methods it goes with."""

    def __init__(self, network: SyncNet) -> None:
        self._network = network
        self._video: str | None = None
        self._found: dict[tuple[bytes, int], Tensor] = {}

    def of(self, video: str, audio: np.ndarray, windows: int) -> Tensor:
        """Features of the first windows of a sound, the same ones for the same samples."""
        if video != self._video:
            self._video = video
            self._found.clear()
        key = sha256(np.ascontiguousarray(audio).tobytes()).digest(), windows
        if key not in self._found:
            self._found[key] = embed_sound(self._network, audio, windows)
        return self._found[key]
