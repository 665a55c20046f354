"""The files of one generated clip, written while its frames come: video, comparison video, contact sheet."""

from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from portraitgen.media.encode import VideoWriter
from portraitgen.media.files import replace_file
from portraitgen.media.yuv import rgb_to_uint8
from portraitgen.metrics.report.panels import contact_sheet, encode_png, panel_frames
from portraitgen.runs.generate.driving.clip import SOUND_RATE, DrivenClip

CRF = 10
"""H.264 quality of the generated clips. They are graded as they are written, so the codec must not show."""

_PANEL_CRF = 18
_SHEET_FRAMES = 8


def write_clip(out: Path, clip: DrivenClip, chunks: Iterable[tuple[Tensor, Tensor]]) -> dict[str, str]:
    """Write a clip's video, a comparison video and a contact sheet; a still clip's picture and sheet.

    One chunk is in memory at a time, and the few frames of the sheet.

    Args:
        out: folder of the results.
        chunks: the next frames and their landmark drawings, both [n, 3, ...] in [-1, 1] on the CPU.

    Returns:
        Kind of file ("video", "panel", "sheet") → its name within `out`.
    """
    ending = "png" if clip.still else "mp4"
    names = {"video": f"generated/{clip.key}.{ending}", "sheet": f"sheets/{clip.key}.png"}
    if not clip.still:
        names["panel"] = f"panels/{clip.key}.mp4"
    for name in names.values():
        (out / name).parent.mkdir(exist_ok=True)
    length = len(clip.frames)
    shown = np.unique(np.linspace(0, length - 1, min(_SHEET_FRAMES, length)).round().astype(int))
    kept: list[dict[str, Tensor]] = []
    done = 0
    with ExitStack() as files:
        video = panel = None
        for generated, pose in chunks:
            columns = _columns(clip, generated, pose, done)
            here = shown[(shown >= done) & (shown < done + len(generated))] - done
            kept += [{label: column[[frame]] for label, column in columns.items()} for frame in here]
            done += len(generated)
            pictures = rgb_to_uint8(generated).movedim(1, -1).numpy()
            if clip.still:
                replace_file(out / names["video"], encode_png(pictures[0]))
                continue
            for picture, beside in zip(pictures, panel_frames(columns), strict=True):
                if video is None or panel is None:
                    video = files.enter_context(_writer(out / names["video"], clip, picture, crf=CRF))
                    panel = files.enter_context(_writer(out / names["panel"], clip, beside, crf=_PANEL_CRF))
                video.write(picture)
                panel.write(beside)
    rows = {label: torch.cat([frame[label] for frame in kept]) for label in kept[0]}
    sheet = contact_sheet(rows, num_columns=_SHEET_FRAMES, frame_index=clip.frames[shown])
    replace_file(out / names["sheet"], encode_png(sheet))
    return names


def _columns(clip: DrivenClip, generated: Tensor, pose: Tensor, first: int) -> dict[str, Tensor]:
    """What is shown side by side of the frames from `first` on: label → [n, 3, H, W]."""
    length = len(generated)
    columns = {
        "reference": clip.reference.expand(length, -1, -1, -1),
        "driving landmarks": pose,
        "generated": generated,
    }
    if clip.truth is not None:
        columns["truth"] = clip.truth[first : first + length]
    return columns


def _writer(path: Path, clip: DrivenClip, picture: np.ndarray, *, crf: int) -> VideoWriter:
    height, width = picture.shape[:2]
    return VideoWriter(
        path, fps=clip.fps, width=width, height=height, crf=crf, audio=clip.sound, sample_rate=SOUND_RATE
    )
