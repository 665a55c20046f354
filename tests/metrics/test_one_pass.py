"""Frames are read a few at a time, once for all graders, and the figures are those of the whole clip."""

import subprocess
import sys
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
import torch

from portraitgen.faces.dlib import DlibBackend
from portraitgen.faces.recognition.recognizer import FaceRecognizer
from portraitgen.media.container import VideoError
from portraitgen.media.decode import read_video
from portraitgen.media.interpolation import FlowBetween
from portraitgen.media.yuv import rgb_to_uint8
from portraitgen.metrics.drift import drift, end_frames, frame_colours, frame_sharpness
from portraitgen.metrics.frames import CHUNK, HeldFrames, pick
from portraitgen.metrics.grader import GradedClip
from portraitgen.metrics.graders.drift import DriftGrader
from portraitgen.metrics.graders.fvd import WINDOW
from portraitgen.metrics.graders.identity import IdentityGrader
from portraitgen.metrics.graders.motion import MotionGrader
from portraitgen.metrics.graders.pixels import PixelGrader
from portraitgen.metrics.graders.smoothness import SmoothnessGrader
from portraitgen.metrics.motion import frame_differences, mean_difference, steadiness
from portraitgen.metrics.one_pass import grade_clip, grade_together
from portraitgen.metrics.pictures import Pictures
from portraitgen.metrics.quality import frame_psnr, frame_ssim
from portraitgen.metrics.scores import GENERATED, TRUTH
from portraitgen.runs.evaluate.sources.files import VideoFrames, resize_frames

COUNT = 2 * CHUNK + 5


class AtOnce(HeldFrames):
    """All frames in one chunk, as graders once took them."""

    def chunks(self):
        return iter([self.tensor])


class Counted(HeldFrames):
    """Counts how often it is read."""

    reads = 0

    def chunks(self):
        self.reads += 1
        return super().chunks()


@pytest.fixture(scope="module")
def man(carphone):
    """uint8 [37, 3, 96, 96], the face of the talking man."""
    frames = torch.from_numpy(read_video(carphone)[:COUNT]).movedim(-1, 1)[..., :144, 24:168]
    return resize_frames(frames, (96, 96))


@pytest.fixture(scope="module")
def clips(man):
    """The clip a little noisy, in chunks and at once."""
    noise = torch.randint(-9, 10, man.shape, generator=torch.Generator().manual_seed(0))
    shown = (man.int() + noise).clamp(0, 255).byte()

    def clip(kind):
        backend = DlibBackend()
        truth = Pictures(kind(man, name="truth"), backend, name="truth")
        pictures = Pictures(kind(shown, name="shown"), backend, name="shown")
        reference = Pictures(man[0], backend, name="reference")
        nothing = dict.fromkeys(("driving", "audio", "prompt"))
        return GradedClip(
            video="v",
            method=GENERATED,
            pictures=pictures,
            truth=truth,
            reference=reference,
            fps=25.0,
            **nothing,
        )

    return clip(HeldFrames), clip(AtOnce)


@pytest.mark.parametrize(
    "grader",
    [
        PixelGrader(),
        MotionGrader(),
        SmoothnessGrader(FlowBetween()),
        IdentityGrader("dlib"),
        IdentityGrader("dlib", frames=2),  # none of them in the chunk between
        IdentityGrader("dlib", frames=None, against="truth"),
        DriftGrader(),
    ],
    ids=lambda grader: type(grader).__name__,
)
def test_figures_in_chunks_are_those_at_once(clips, grader):
    streamed, whole = (grade_clip(grader, clip) for clip in clips)
    assert streamed.reasons == whole.reasons
    assert streamed.scores.keys() == whole.scores.keys()
    for name, values in whole.scores.items():
        np.testing.assert_allclose(streamed.scores[name], values, rtol=0, atol=1e-6, err_msg=name)


def test_figures_are_those_of_the_functions_on_whole_clips(clips, man):
    clip = clips[0]
    shown = clip.pictures.frames.tensor
    found = grade_together(
        {GENERATED: clip},
        {"a": PixelGrader(), "b": MotionGrader(), "c": SmoothnessGrader(FlowBetween()), "d": DriftGrader()},
    )[GENERATED].scores
    np.testing.assert_array_equal(found["psnr"], frame_psnr(shown, man).numpy())
    np.testing.assert_array_equal(found["ssim"], frame_ssim(shown, man).numpy())
    assert found["temporal_flicker"] == steadiness(frame_differences(shown))
    even = shown[::2] / 127.5 - 1
    made = [FlowBetween()(one, other, 1)[0] for one, other in pairwise(even)]
    foretold = zip(shown[1::2], rgb_to_uint8(torch.stack(made)), strict=True)
    differences = torch.stack([mean_difference(frame, other) for frame, other in foretold])
    assert found["smoothness_flow"] == pytest.approx(steadiness(differences), abs=1e-12)
    ends = end_frames(COUNT)
    assert found["drift_colour"] == drift(frame_colours(shown[ends]).numpy())
    assert found["drift_sharpness"] == pytest.approx(drift(frame_sharpness(shown[ends]).numpy()), abs=1e-9)


def test_frames_are_read_once_for_all_graders_and_once_for_faces(man):
    backend = DlibBackend()
    videos = [Counted(man, name="frames") for _ in range(2)]
    shown, truth = (Pictures(video, backend, name="frames") for video in videos)
    nothing = dict.fromkeys(("driving", "audio", "prompt", "reference"))
    clip = GradedClip(video="v", method=GENERATED, pictures=shown, truth=truth, fps=25.0, **nothing)
    both = {GENERATED: clip, TRUTH: replace(clip, method=TRUTH, pictures=truth)}
    pixels = {"pixels": PixelGrader(), "smoothness": SmoothnessGrader(FlowBetween())}
    grade_together(both, pixels)
    assert [video.reads for video in videos] == [1, 1]
    grade_together(both, {**pixels, "motion": MotionGrader(), "identity": IdentityGrader("dlib")})
    assert [video.reads for video in videos] == [3, 3], "once more, and once for the faces"


class Looks(FaceRecognizer):
    """Counts the faces that it looks at."""

    faces = 0

    def forward(self, crops):
        self.faces += len(crops)
        return super().forward(crops)


def test_a_network_looks_at_a_face_once_for_all_graders_and_at_a_copied_frame_once(man, monkeypatch):
    graders = {"identity": IdentityGrader("dlib", frames=None), "drift": DriftGrader()}
    recognizer = graders["identity"].recognizer
    monkeypatch.setattr(recognizer, "__class__", Looks)
    backend = DlibBackend()
    nothing = dict.fromkeys(("driving", "audio", "prompt", "truth"))
    for frames, count in ((man[:14], 14), (man[:1].expand(14, -1, -1, -1), 1)):
        shown, reference = (Pictures(each, backend, name="frames") for each in (frames, man[0]))
        assert all(shown.faces)
        clip = GradedClip(
            video="v", method=GENERATED, pictures=shown, reference=reference, fps=25.0, **nothing
        )
        before = recognizer.faces
        found = grade_together({GENERATED: clip}, graders)[GENERATED].scores
        assert recognizer.faces - before == count + 1, "and the reference"
        similarity = found["identity_dlib"]
        assert found["drift_identity"] == pytest.approx(drift(similarity[end_frames(14)]), abs=1e-6)


def test_a_window_of_fvd_is_a_chunk():
    assert CHUNK == WINDOW == 16


def test_a_video_is_read_as_often_as_asked_and_cut_or_resized(carphone):
    whole = torch.from_numpy(read_video(carphone)).movedim(-1, 1)
    video = VideoFrames(carphone)
    assert video.shape == tuple(whole.shape)
    chunks = [*video.chunks()]
    assert {len(chunk) for chunk in chunks[:-1]} == {CHUNK}
    assert torch.equal(torch.cat(chunks), whole)
    short = video.cut(20)
    assert torch.equal(torch.cat([*short.chunks()]), whole[:20])
    places = np.array([17, 3, 3])
    assert torch.equal(short.at(places), whole[[17, 3, 3]])
    small = VideoFrames(carphone, fps=Fraction(10), size=(48, 36))
    assert small.shape == (40, 3, 36, 48)
    assert torch.equal(small.at(np.array([0])), resize_frames(whole[:1], (48, 36)))
    with pytest.raises(ValueError, match="no frames"):
        pick(video, np.zeros(0, np.int64))


def test_a_damaged_video_is_refused_before_it_is_graded(carphone, tmp_path):
    data = bytearray(carphone.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 3000] = bytes(3000)
    (tmp_path / "damaged.mp4").write_bytes(data)
    with pytest.raises(VideoError, match="of 120 frames are damaged"):
        VideoFrames(tmp_path / "damaged.mp4")


MEMORY = """
import sys
from pathlib import Path
import numpy as np
from portraitgen.faces.dlib import DlibBackend
from portraitgen.faces.recognition.recognizer import FaceRecognizer
from portraitgen.media.allocator import collecting_new_garbage_alone
from portraitgen.media.encode import write_video
from portraitgen.metrics.graders.motion import MotionGrader
from portraitgen.runs.evaluate.sources.pair_list import Pair
from portraitgen.runs.evaluate.sources.pairs import PairedFiles
from portraitgen.metrics.grading import grade
from tests.peak_memory import peak_memory

class Nobody(DlibBackend):  # the real one would take minutes, and keeps nothing from frame to frame
    def detect(self, image, *, embed=False):
        return []

def evaluate(name, count):
    tiles = np.random.default_rng(0).integers(0, 255, (12, 16, 3), dtype=np.uint8)
    still = tiles.repeat(8, axis=0).repeat(8, axis=1)
    paths = [Path(sys.argv[1]) / f"{side}-{name}.mp4" for side in ("generated", "real")]
    for shift, path in enumerate(paths):
        write_video(path, (np.roll(still, 8 * (n + shift), axis=1) for n in range(count)), fps=25)
    source = PairedFiles([Pair(name, *paths)], fps=None, size=None, length="exact", place={})
    rows = grade(source.read(name).material, graders={"motion": MotionGrader()}, backend=Nobody())
    assert rows[0].scores["temporal_flicker"] < 1
    assert len(rows[0].frames) == count
    source.media(name, Path(sys.argv[1]) / "media")
    return peak_memory() / 2**20

with collecting_new_garbage_alone():
    short = evaluate("short", 256)  # more than what the encoder and the decoders look ahead
    print(evaluate("long", 640) - short)
"""


def test_memory_does_not_grow_with_the_length_of_a_clip(tmp_path):
    """15 seconds of 128x96 are 14 MB a video; held, and held again to be drawn, 67."""
    done = subprocess.run(
        [sys.executable, "-c", MEMORY, str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert float(done.stdout) < 25
