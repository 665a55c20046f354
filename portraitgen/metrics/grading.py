"""One generated clip, graded beside the controls that it has to beat."""

import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from portraitgen.faces.backend import FaceBackend
from portraitgen.metrics.baselines import copy_nearest, copy_reference
from portraitgen.metrics.frames import Frames, as_frames
from portraitgen.metrics.grader import GradedClip, Grader
from portraitgen.metrics.one_pass import grade_together
from portraitgen.metrics.pictures import Pictures
from portraitgen.metrics.rgb import Clip
from portraitgen.metrics.scores import COPY_NEAREST, COPY_REFERENCE, GENERATED, METHODS, TRUTH, Row

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Material:
    """All that there is of one video. Frames have one size, and all landmarks are in its pixels.

    Attributes:
        video: key of the clip.
        generated: [T, 3, H, W] uint8, or float in [-1, 1]; or frames that are read when they are graded.
        fps: frames a second.
        truth: [T, 3, H, W], the frames that the generated ones should have been, or None.
        reference: [3, H', W'], the picture that the generator was given, or None. Where it has the size of
            the frames, its copy is a control.
        people: instead of it, a photo [3, H', W'] of each of several people that the generator was given.
        driving: [T, K, 2] landmarks of the true frames, found by the same backend; NaN without a face. None:
            they are looked for in the truth.
        driving_scheme: order and meaning of `driving`, which counts only where the backend finds the same;
            None: it does.
        frame_index: int64 [T], place of the frames in the video (None: 0..T-1), shown on plots.
        train_frames: [N, 3, H, W] of the same person; without them there is no `copy_nearest`.
        train_landmarks: [N, K, 2] of the training frames.
        audio: float32 [S] mono at 16 kHz, from the first frame on, or None.
        true_audio: that of the true frames, where it is another; None: `audio`.
        prompt: the text that the generator was given, or None.

    Raises:
        ValueError: training frames without landmarks, or the other way round.
    """

    video: str
    generated: Clip | Frames
    fps: float
    truth: Clip | Frames | None = None
    reference: Clip | None = None
    people: Sequence[Clip] = ()
    driving: np.ndarray | None = None
    driving_scheme: str | None = None
    frame_index: np.ndarray | None = None
    train_frames: Clip | Frames | None = None
    train_landmarks: np.ndarray | None = None
    audio: np.ndarray | None = None
    true_audio: np.ndarray | None = None
    prompt: str | None = None

    def __post_init__(self) -> None:
        if (self.train_frames is None) != (self.train_landmarks is None):
            raise ValueError(
                f"{self.video}: the nearest training frame needs both train_frames and train_landmarks"
            )


def grade(
    material: Material,
    *,
    graders: Mapping[str, Grader],
    backend: FaceBackend,
    methods: Collection[str] = tuple(METHODS),
) -> list[Row]:
    """Rows of a generated clip, of its controls, and of the true frames; graders of sets take the clips in.

    The row of the true frames tells the error of the measure itself: nothing can be expected to fall below
    it. A control that the material does not allow is a row with its failure.

    Args:
        material: what there is of the video.
        graders: by their names in the configuration.
        backend: finds the faces.
        methods: those to grade.

    Raises:
        ValueError: shapes that do not go together, or values that are not finite.
    """
    video = material.video
    driving, shown = _methods(material, backend)
    generated, truth = shown[GENERATED], shown[TRUTH]
    assert isinstance(generated, Pictures)
    count = len(generated)
    frames = np.arange(count) if material.frame_index is None else np.asarray(material.frame_index, np.int64)
    true = truth if isinstance(truth, Pictures) else None
    reference = None
    if material.reference is not None:
        reference = Pictures(material.reference, backend, name=f"{video}: reference")
    people = tuple(
        Pictures(photo, backend, name=f"{video}: person {number}")
        for number, photo in enumerate(material.people, start=1)
    )
    clips = {
        method: GradedClip(
            video=video,
            method=method,
            pictures=pictures,
            truth=true,
            reference=reference,
            people=people,
            driving=driving,
            fps=material.fps,
            audio=material.true_audio
            if method == TRUTH and material.true_audio is not None
            else material.audio,
            prompt=material.prompt,
        )
        for method, pictures in shown.items()
        if method in methods and isinstance(pictures, Pictures)
    }
    found = grade_together(clips, graders)
    return [
        Row(video, method, frames, {}, failure=pictures)
        if isinstance(pictures, str)
        else Row(video, method, frames, *found[method])
        for method, pictures in shown.items()
        if method in methods
    ]


def _driving(material: Material, backend: FaceBackend) -> np.ndarray | None:
    """The landmarks that the face was to follow, where the backend finds landmarks of their kind."""
    points, scheme = material.driving, material.driving_scheme
    if points is None or scheme is None:
        return points
    if scheme == backend.landmark_scheme and points.shape[1] == backend.num_landmarks:
        return points
    log.warning(
        "%s was driven by %d landmarks of %s, faces=%s finds %d of %s: they are not compared",
        *(material.video, points.shape[1], scheme, backend.name),
        *(backend.num_landmarks, backend.landmark_scheme),
    )
    return None


def _methods(material: Material, backend: FaceBackend) -> tuple[np.ndarray | None, dict[str, Pictures | str]]:
    """The driving landmarks, and frames by each method in the order of `METHODS`, or why there are none."""
    video = material.video
    generated = as_frames(material.generated, name=f"{video}: generated frames")
    frames: dict[str, Clip | Frames | str] = {
        GENERATED: generated,
        TRUTH: "no true frames are given" if material.truth is None else material.truth,
    }
    count, _, *size = generated.shape
    if material.reference is None:
        frames[COPY_REFERENCE] = "no reference picture is given"
    elif list(material.reference.shape[-2:]) != size:
        frames[COPY_REFERENCE] = "the reference picture has another size"
    else:
        frames[COPY_REFERENCE] = copy_reference(material.reference, count)
    if material.train_frames is None or material.train_landmarks is None or material.driving is None:
        frames[COPY_NEAREST] = "no training frames of this video are known"
    else:
        frames[COPY_NEAREST] = copy_nearest(
            as_frames(material.train_frames, name=f"{video}: training frames"),
            np.asarray(material.train_landmarks),
            np.asarray(material.driving),
        )
    driving = _driving(material, backend)
    shown: dict[str, Pictures | str] = {}
    for method in (TRUTH, GENERATED, COPY_REFERENCE, COPY_NEAREST):  # the truth may drive the others
        clip = frames[method]
        if isinstance(clip, str):
            shown[method] = clip
            continue
        pictures = Pictures(clip, backend, name=f"{video}: {method} frames", driving=driving)
        if pictures.frames.shape != generated.shape:
            raise ValueError(
                f"{video}: generated frames are {list(generated.shape)}, those of "
                f"{METHODS[method].label!r} {list(pictures.frames.shape)}; bring all to one number and "
                "size first"
            )
        shown[method] = pictures
        if method == TRUTH and driving is None:
            driving = pictures.landmarks
    return driving, {method: shown[method] for method in METHODS}
