"""One generated clip, graded beside the controls that it has to beat."""

import numpy as np

from portraitgen.faces.backend import FaceBackend
from portraitgen.metrics.baselines import copy_nearest, copy_reference
from portraitgen.metrics.frames import Clip, as_uint8
from portraitgen.metrics.landmarks import find_landmarks, score_landmarks
from portraitgen.metrics.quality import frame_psnr, frame_ssim
from portraitgen.metrics.scores import COPY_NEAREST, COPY_REFERENCE, GENERATED, TRUTH, Row


def grade(
    generated: Clip,
    *,
    video: str,
    truth: Clip,
    reference: Clip,
    driving_landmarks: np.ndarray,
    backend: FaceBackend,
    frame_index: np.ndarray | None = None,
    train_frames: Clip | None = None,
    train_landmarks: np.ndarray | None = None,
) -> list[Row]:
    """Rows of a generated clip, of its controls, and of the true frames.

    All frames have one size, and all landmarks are in its pixels. The row of the true frames tells the error
    of the landmark finder itself: nothing can be expected to fall below it.

    Args:
        generated: [T, 3, H, W] uint8, or float in [-1, 1].
        video: key of the clip.
        truth: [T, 3, H, W], the frames that the generated ones should have been.
        reference: [3, H, W], the frame that the generator was given.
        driving_landmarks: [T, K, 2] of the true frames, found by the same backend; NaN without a face.
        backend: finds the landmarks again.
        frame_index: int64 [T], place of the frames in the video (0..T-1 without it), shown on plots.
        train_frames: [N, 3, H, W] of the same person; without them there is no `copy_nearest` row.
        train_landmarks: [N, K, 2] of the training frames.

    Raises:
        ValueError: shapes that do not go together, or values that are not finite.
    """
    if (train_frames is None) != (train_landmarks is None):
        raise ValueError(f"{video}: the nearest training frame needs both train_frames and train_landmarks")
    frames = np.arange(len(generated)) if frame_index is None else np.asarray(frame_index, dtype=np.int64)
    driving = np.asarray(driving_landmarks)
    methods: dict[str, Clip] = {GENERATED: generated, COPY_REFERENCE: copy_reference(reference, len(frames))}
    if train_frames is not None and train_landmarks is not None:
        methods[COPY_NEAREST] = copy_nearest(train_frames, np.asarray(train_landmarks), driving)
    methods[TRUTH] = truth
    true = as_uint8(truth, name=f"{video}: true frames")
    rows = []
    for method, clip in methods.items():
        shown = as_uint8(clip, name=f"{video}: {method} frames")
        if shown.shape != true.shape:
            raise ValueError(
                f"{video}: {method} frames are {list(shown.shape)}, the true ones {list(true.shape)}; "
                "bring all frames to one number and size before grading"
            )
        scores, reasons = score_landmarks(find_landmarks(shown, backend), driving)
        if method != TRUTH:
            scores["psnr"] = frame_psnr(shown, true).cpu().numpy()
            scores["ssim"] = frame_ssim(shown, true).cpu().numpy()
        rows.append(Row(video=video, method=method, frames=frames, scores=scores, reasons=reasons))
    return rows
