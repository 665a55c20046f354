"""The files of one result, written while its frames come: the result, a comparison video, a sheet."""

from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from portraitgen.faces.landmark_file import save_landmarks
from portraitgen.faces.landmark_sequence import LandmarkSequence
from portraitgen.media.encode import VideoWriter
from portraitgen.media.files import replace_file
from portraitgen.media.sound import SOUND_RATE
from portraitgen.media.yuv import rgb_to_uint8
from portraitgen.metrics.report.panels import contact_sheet, encode_png, panel_frames
from portraitgen.training.request import Request

CRF = 10
"""H.264 quality of the generated clips. They are graded as they are written, so the codec must not show."""

GENERATED, TRUTH = "generated", "truth"

_PANEL_CRF = 18
_SHEET_FRAMES = 8


def write_result(
    out: Path, name: str, request: Request, chunks: Iterable[tuple[Tensor, Mapping[str, Tensor]]]
) -> dict[str, object]:
    """Write a clip's video, a comparison video and a contact sheet; of a picture the picture and its sheet.

    One chunk is in memory at a time, and the few frames of the sheet.

    Args:
        out: folder of the results.
        name: of the files.
        chunks: the next frames [n, 3, H, W] and what is shown beside them: label → [n, 3, h, w] or
            [3, h, w]; all in [-1, 1] on the CPU.

    Returns:
        Kind of file ("video" or "image", "panel", "sheet", "landmarks") → its name within `out`, and
        "shown": the labels of what stands side by side.
    """
    is_clip = request.length is not None
    main = "video" if is_clip else "image"
    names = {main: f"generated/{name}.{'mp4' if is_clip else 'png'}", "sheet": f"sheets/{name}.png"}
    if is_clip:
        names["panel"] = f"panels/{name}.mp4"
    for each in names.values():
        (out / each).parent.mkdir(exist_ok=True)
    length = request.count
    chosen = np.unique(np.linspace(0, length - 1, min(_SHEET_FRAMES, length)).round().astype(int))
    kept: list[dict[str, Tensor]] = []
    done = 0
    with ExitStack() as files:
        video = panel = None
        for generated, shown in chunks:
            columns = _columns(request, generated, shown, done)
            here = chosen[(chosen >= done) & (chosen < done + len(generated))] - done
            kept += [{label: column[[frame]] for label, column in columns.items()} for frame in here]
            done += len(generated)
            pictures = rgb_to_uint8(generated).movedim(1, -1).numpy()
            if not is_clip:
                replace_file(out / names[main], encode_png(pictures[0]))
                continue
            for picture, beside in zip(pictures, panel_frames(columns), strict=True):
                if video is None or panel is None:
                    video = files.enter_context(_writer(out / names[main], request, picture, crf=CRF))
                    panel = files.enter_context(
                        _writer(out / names["panel"], request, beside, crf=_PANEL_CRF)
                    )
                video.write(picture)
                panel.write(beside)
    rows = {label: torch.cat([frame[label] for frame in kept]) for label in kept[0]}
    sheet = contact_sheet(rows, num_columns=_SHEET_FRAMES, frame_index=request.numbers[chosen])
    replace_file(out / names["sheet"], encode_png(sheet))
    if request.landmarks is not None and request.truth is None:
        names["landmarks"] = f"landmarks/{name}.npz"
        _write_landmarks(out / names["landmarks"], request, generated.shape[-2:])
    return {**names, "shown": [*rows]}


def _columns(
    request: Request, generated: Tensor, shown: Mapping[str, Tensor], first: int
) -> dict[str, Tensor]:
    """What is shown side by side of the frames from `first` on: label → [n, 3, h, w]."""
    count = len(generated)
    columns = {
        label: pictures.expand(count, -1, -1, -1) for label, pictures in shown.items() if label != TRUTH
    }
    columns[GENERATED] = generated
    if request.truth is not None:
        columns[TRUTH] = request.truth[first : first + count]
    return columns


def _write_landmarks(path: Path, request: Request, size: torch.Size) -> None:
    """The landmarks that the face was told to follow, to be graded by where there is no truth."""
    assert request.landmarks is not None
    assert request.scheme is not None
    path.parent.mkdir(exist_ok=True)
    sequence = LandmarkSequence(
        points=request.landmarks.astype(np.float32),
        scheme=request.scheme,
        image_size=(size[0], size[1]),
        fps=request.fps or Fraction(1),
        found=np.isfinite(request.landmarks).all(axis=(1, 2)),
    )
    save_landmarks(path, sequence)


def _writer(path: Path, request: Request, picture: np.ndarray, *, crf: int) -> VideoWriter:
    height, width = picture.shape[:2]
    assert request.fps is not None
    return VideoWriter(
        path,
        fps=request.fps,
        width=width,
        height=height,
        crf=crf,
        audio=request.sound,
        sample_rate=SOUND_RATE,
    )
