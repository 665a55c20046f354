"""Anybody's videos and pictures, graded against the files that they are paired with."""

from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from portraitgen.media.audio import read_audio
from portraitgen.media.decode import VideoError
from portraitgen.media.encode import write_video
from portraitgen.media.files import replacing
from portraitgen.metrics.grader import Fact
from portraitgen.metrics.grading import Material
from portraitgen.metrics.page_parts import Media
from portraitgen.metrics.panels import contact_sheet, encode_png, panel_frames
from portraitgen.metrics.protocol import VideoFacts, digest_given
from portraitgen.runs.sources.files import MediaClip, read_media, resize_frames
from portraitgen.runs.sources.pair_list import Pair
from portraitgen.runs.sources.source import Reading


class PairedFiles:
    """Pairs of files.

    Args:
        pairs: what to grade, in any order.
        fps: rate to bring all videos to, by the nearest frame in time; None: those of a pair must agree.
        size: width and height to bring all frames to; None: those of a pair must agree.
        length: "exact": the videos of a pair must have one number of frames; "shortest": the longer one is
            cut behind.
        place: the settings that lead here, for the protocol.
    """

    settings: Mapping[str, Fact] = {}

    def __init__(
        self,
        pairs: Sequence[Pair],
        *,
        fps: float | None,
        size: tuple[int, int] | None,
        length: Literal["exact", "shortest"],
        place: Mapping[str, Any],
    ) -> None:
        self.place = place
        self.pairs = {pair.key: pair for pair in pairs}
        self.keys = sorted(self.pairs)
        self.fps = None if fps is None else Fraction(fps).limit_denominator(100_000)
        self.size = size
        self.length = length
        ends = "" if length == "exact" else ", the longer of a pair cut behind"
        rate = "" if fps is None else f", brought to {fps:g} fps by the nearest in time"
        self.preparation = {
            "frame_sampler": f"all frames{rate}{ends}",
            "resize": "none"
            if size is None
            else f"all frames to {size[0]}x{size[1]}, bicubic with antialiasing (torch), rounded to 8 bits",
            "crop": "none",
        }

    def read(self, key: str) -> Reading:
        """Both files of a pair, checked to go together.

        Raises:
            ValueError: the files differ in rate, length or size, and no setting says what to do.
        """
        pair = self.pairs[key]
        real = None if pair.real is None else self._read(pair.real)
        reference = None if pair.reference is None else self._read(pair.reference).frames[0]
        audio = None if pair.audio is None else _sound(pair.audio)
        true_audio = None if real is None else real.audio

        def facts(frames: np.ndarray, clip: MediaClip | None) -> VideoFacts:
            """Of the graded frames of a clip, the true one where there is one."""
            digest = digest_given(
                frames,
                truth=None if real is None else real.frames,
                reference=reference,
                audio=_first(audio, true_audio),
                prompt=pair.prompt,
            )
            height, width = (0, 0) if clip is None else clip.frames.shape[-2:]
            return VideoFacts(
                key, len(frames), 0.0 if clip is None else float(clip.fps), width, height, digest
            )

        try:
            generated = self._read(pair.generated)
        except VideoError as error:
            frames = np.arange(0 if real is None else len(real.frames))
            return Reading(facts(frames, real), frames, None, failure=str(error))
        if real is not None:
            generated, real = self._fit(pair, generated, real)
        frames = np.arange(len(generated.frames))
        material = Material(
            video=key,
            generated=generated.frames,
            fps=float(generated.fps),
            truth=None if real is None else real.frames,
            reference=reference,
            audio=_first(audio, generated.audio, true_audio),
            true_audio=None if real is None else _first(true_audio, audio),
            prompt=pair.prompt,
        )
        return Reading(facts(frames, real or generated), frames, material)

    def media(self, key: str, folder: Path) -> list[Media]:
        """A comparison video and a contact sheet, or for a picture the sheet alone."""
        material = self.read(key).material
        if material is None:
            return []
        columns = {"generated": torch.as_tensor(material.generated)}
        if material.truth is not None:
            columns["real"] = torch.as_tensor(material.truth)
        name = folder / key.replace("/", "-")
        caption = f"{key}: {', '.join(columns)}"
        media = []
        folder.mkdir(parents=True, exist_ok=True)
        if len(material.generated) > 1:
            video = name.with_name(f"{name.name}.mp4")
            write_video(video, panel_frames(columns), fps=material.fps, audio=material.audio)
            media.append(Media(video, caption))
        sheet = name.with_name(f"{name.name}.png")
        with replacing(sheet) as temporary:
            temporary.write_bytes(encode_png(contact_sheet(columns)))
        return [*media, Media(sheet, caption)]

    def _read(self, path: Path) -> MediaClip:
        clip = read_media(path, fps=self.fps)
        if self.size is None:
            return clip
        return MediaClip(resize_frames(clip.frames, self.size), clip.fps, clip.audio)

    def _fit(self, pair: Pair, generated: MediaClip, real: MediaClip) -> tuple[MediaClip, MediaClip]:
        if abs(generated.fps - real.fps) > Fraction(1, 100):
            raise ValueError(
                f"{pair.generated} has {float(generated.fps):g} fps, {pair.real} {float(real.fps):g}: write "
                "both at one rate, or say fps=… to bring them to it (0 is a picture)"
            )
        if generated.frames.shape[-2:] != real.frames.shape[-2:]:
            raise ValueError(
                f"{pair.generated} is {_size(generated.frames)}, {pair.real} {_size(real.frames)}: write "
                "both in one size, or say resize=[width,height] to bring them to it"
            )
        shortest = min(len(generated.frames), len(real.frames))
        if self.length == "exact" and len(generated.frames) != len(real.frames):
            raise ValueError(
                f"{pair.generated} has {len(generated.frames)} frames, {pair.real} {len(real.frames)}: write "
                "both in one length, or say length=shortest to cut the longer one"
            )
        return (
            MediaClip(generated.frames[:shortest], generated.fps, generated.audio),
            MediaClip(real.frames[:shortest], real.fps, real.audio),
        )


def _sound(path: Path) -> np.ndarray:
    sound = read_audio(path)
    if sound is None:
        raise ValueError(f"{path} holds no sound; name another file in the column `audio`")
    return sound


def _first(*sounds: np.ndarray | None) -> np.ndarray | None:
    return next((sound for sound in sounds if sound is not None), None)


def _size(frames: Tensor) -> str:
    height, width = frames.shape[-2:]
    return f"{width}x{height}"
