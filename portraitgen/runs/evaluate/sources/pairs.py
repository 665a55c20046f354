"""Anybody's videos and pictures, graded against the files that they are paired with."""

from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from portraitgen.media.audio import read_audio
from portraitgen.media.container import VideoError
from portraitgen.media.decode import VideoInfo, probe_video
from portraitgen.media.encode import write_video
from portraitgen.media.files import replacing
from portraitgen.metrics.frames import as_frames
from portraitgen.metrics.grader import Fact
from portraitgen.metrics.grading import Material
from portraitgen.metrics.protocol import VideoFacts, digest_given
from portraitgen.metrics.report.media import Media, media_name
from portraitgen.metrics.report.panels import contact_sheet, encode_png, panel_frames
from portraitgen.runs.evaluate.sources.files import VIDEOS, MediaClip, read_media, read_picture
from portraitgen.runs.evaluate.sources.pair_list import Pair
from portraitgen.runs.evaluate.sources.source import Reading, file_stamps

_SHOWN = 10


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
    recognizers: Mapping[str, str] = {}

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

    def check(self) -> None:
        """See `ClipSource.check`: two videos whose headers differ in rate, size or length."""
        problems = [problem for pair in self.pairs.values() if (problem := self._stated_problem(pair))]
        if problems:
            more = [f"and {len(problems) - _SHOWN} more"] if len(problems) > _SHOWN else []
            raise ValueError(
                "\n  ".join([f"{len(problems)} pairs do not fit:", *problems[:_SHOWN], *more])
                if len(problems) > 1
                else problems[0]
            )

    def read(self, key: str) -> Reading:
        """Both files of a pair, checked to go together.

        Raises:
            ValueError: the files differ in rate, length or size, and no setting says what to do.
        """
        pair = self.pairs[key]
        real = None if pair.real is None else self._read(pair.real)
        people = [read_picture(each, size=self.size)[0] for each in pair.references]
        reference = people.pop() if len(people) == 1 else None
        audio = None if pair.audio is None else _sound(pair.audio)
        true_audio = None if real is None else real.audio

        def facts(frames: np.ndarray, clip: MediaClip) -> VideoFacts:
            """Of the graded frames of a clip, the true one where there is one."""
            digest = digest_given(
                frames,
                truth=None if real is None else real.frames,
                reference=reference,
                people=people,
                audio=_first(audio, true_audio),
                prompt=pair.prompt,
            )
            height, width = clip.frames.shape[-2:]
            return VideoFacts(key, len(frames), float(clip.fps), width, height, digest)

        try:
            generated = self._read(pair.generated)
        except VideoError as error:
            if real is None:
                unknown = VideoFacts(key, None, None, None, None, None)
                return Reading(unknown, np.arange(0), None, failure=str(error))
            frames = np.arange(real.frames.shape[0])
            return Reading(facts(frames, real), frames, None, failure=str(error))
        if real is not None:
            generated, real = self._fit(pair, generated, real)
        frames = np.arange(generated.frames.shape[0])
        material = Material(
            video=key,
            generated=generated.frames,
            fps=float(generated.fps),
            truth=None if real is None else real.frames,
            reference=reference,
            people=people,
            # A picture has no time in which a sound could go with it.
            audio=_first(audio, generated.audio, true_audio) if generated.fps else None,
            true_audio=None if real is None or not real.fps else _first(true_audio, audio),
            prompt=pair.prompt,
        )
        return Reading(facts(frames, real or generated), frames, material)

    def stamp(self, key: str) -> object:
        """See `ClipSource.stamp`."""
        pair = self.pairs[key]
        return [*file_stamps(pair.generated, pair.real, *pair.references, pair.audio), pair.prompt]

    def media(self, key: str, folder: Path) -> list[Media]:
        """A comparison video and a contact sheet, or for a picture the sheet alone."""
        material = self.read(key).material
        if material is None:
            return []
        generated = as_frames(material.generated, name=f"{key}: generated")
        columns = {"generated": generated}
        if material.truth is not None:
            columns["real"] = as_frames(material.truth, name=f"{key}: real")
        name = folder / media_name(key)
        caption = f"{key}: {', '.join(columns)}"
        media = []
        folder.mkdir(parents=True, exist_ok=True)
        if generated.shape[0] > 1:
            video = name.with_name(f"{name.name}.mp4")
            write_video(video, panel_frames(columns), fps=material.fps, audio=material.audio)
            media.append(Media(video, caption))
        sheet = name.with_name(f"{name.name}.png")
        with replacing(sheet) as temporary:
            temporary.write_bytes(encode_png(contact_sheet(columns)))
        return [*media, Media(sheet, caption)]

    def _read(self, path: Path) -> MediaClip:
        return read_media(path, fps=self.fps, size=self.size)

    def _fit(self, pair: Pair, generated: MediaClip, real: MediaClip) -> tuple[MediaClip, MediaClip]:
        if problem := self._mismatch(pair, _Shape.of(generated), _Shape.of(real)):
            raise ValueError(problem)
        shortest = min(generated.frames.shape[0], real.frames.shape[0])
        return generated.cut(shortest), real.cut(shortest)

    def _stated_problem(self, pair: Pair) -> str | None:
        """Why the headers of two videos cannot go together; None too where only reading can tell."""
        if pair.real is None or not {pair.generated.suffix.lower(), pair.real.suffix.lower()} <= {*VIDEOS}:
            return None
        try:
            real = probe_video(pair.real)
        except VideoError as error:
            return str(error)
        try:
            generated = probe_video(pair.generated)
        except VideoError:
            return None  # a clip that failed, which is no mistake of the user's
        return self._mismatch(pair, self._stated(generated), self._stated(real))

    def _stated(self, info: VideoInfo) -> "_Shape":
        """What a video will be when it has been read, by its header; its length too but for another rate."""
        frames = info.num_frames if self.fps is None else 0
        return _Shape(frames, self.fps or info.fps, self.size or (info.width, info.height))

    def _mismatch(self, pair: Pair, ours: "_Shape", theirs: "_Shape") -> str | None:
        """Why the files of a pair cannot be graded together, and what to do."""
        if abs(ours.fps - theirs.fps) > Fraction(1, 100):
            return (
                f"{pair.generated} has {float(ours.fps):g} fps, {pair.real} {float(theirs.fps):g}: write "
                "both at one rate, or say fps=… to bring them to it (0 is a picture)"
            )
        if ours.size != theirs.size:
            return (
                f"{pair.generated} is {ours.size[0]}x{ours.size[1]}, {pair.real} {theirs.size[0]}x"
                f"{theirs.size[1]}: write both in one size, or say resize=[width,height] to bring them to it"
            )
        if self.length == "exact" and ours.num_frames != theirs.num_frames:
            return (
                f"{pair.generated} has {ours.num_frames} frames, {pair.real} {theirs.num_frames}: write both "
                "in one length, or say length=shortest to cut the longer one"
            )
        return None


class _Shape(NamedTuple):
    """What must agree in a pair; `size` is (width, height)."""

    num_frames: int
    fps: Fraction
    size: tuple[int, int]

    @classmethod
    def of(cls, clip: MediaClip) -> "_Shape":
        count, _, height, width = clip.frames.shape
        return cls(count, clip.fps, (width, height))


def _sound(path: Path) -> np.ndarray:
    sound = read_audio(path)
    if sound is None:
        raise ValueError(f"{path} holds no sound; name another file in the column `audio`")
    return sound


def _first(*sounds: np.ndarray | None) -> np.ndarray | None:
    return next((sound for sound in sounds if sound is not None), None)
