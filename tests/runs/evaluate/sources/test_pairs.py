"""What a pair of files is graded against stands in the protocol, also where the generated file is lost."""

from dataclasses import replace
from fractions import Fraction

import av
import cv2
import numpy as np
import pytest

from portraitgen.media.audio import encode_wav
from portraitgen.media.encode import write_video
from portraitgen.metrics.mouth import frame_loudness
from portraitgen.runs.evaluate.sources.pair_list import Pair
from portraitgen.runs.evaluate.sources.pairs import PairedFiles


@pytest.fixture
def pictures(tmp_path):
    for name, level in (("clip", 90), ("man", 10), ("woman", 200)):
        cv2.imwrite(str(tmp_path / f"{name}.png"), np.full((16, 16, 3), level, np.uint8))
    return tmp_path


def facts_of(pair):
    return PairedFiles([pair], fps=None, size=None, length="exact", place={}).read(pair.key).facts


def test_another_reference_or_prompt_is_another_protocol(pictures):
    pair = Pair("clip", pictures / "clip.png", references=(pictures / "man.png",), prompt="a man")
    others = [replace(pair, references=(pictures / "woman.png",)), replace(pair, prompt="a woman")]
    assert len({facts_of(each).digest for each in (pair, *others)}) == 3
    assert facts_of(pair) == facts_of(replace(pair))


def test_a_lost_clip_has_the_facts_of_one_that_is_there(pictures):
    pair = Pair(
        "clip", pictures / "clip.png", pictures / "man.png", (pictures / "woman.png",), prompt="a man"
    )
    assert facts_of(replace(pair, generated=pictures / "lost.png")) == facts_of(pair)


def test_each_video_has_a_media_file_of_its_own(pictures):
    """`a/b` and `a-b` wrote and showed one file."""
    pairs = [Pair("a/b", pictures / "man.png"), Pair("a-b", pictures / "woman.png")]
    source = PairedFiles(pairs, fps=None, size=None, length="exact", place={})
    shown = [source.media(key, pictures / "media")[0].path for key in ("a/b", "a-b")]
    assert shown[0].read_bytes() != shown[1].read_bytes()


def test_a_picture_has_no_sound(pictures):
    """Its rate is 0, by which the loudness of a frame was divided."""
    (pictures / "speech.wav").write_bytes(encode_wav(np.zeros(16000, np.float32)))
    pair = Pair("clip", pictures / "clip.png", pictures / "man.png", audio=pictures / "speech.wav")
    source = PairedFiles([pair], fps=None, size=None, length="exact", place={})
    material = source.read("clip").material
    assert material.audio is None
    assert material.true_audio is None


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".mov"])
def test_sound_is_in_step_where_the_picture_begins_late(tmp_path, suffix):
    """The frames are as bright as the sound is loud; the first is shown 0.84 s after the sound begins."""
    fps, rate, late, count = 25, 48_000, 21, 50
    level = np.random.default_rng(0).permutation(np.linspace(0.1, 1, count))
    loud = np.concatenate([np.full(late, 0.02), level])
    time = np.arange(len(loud) * rate // fps) / rate
    tone = (0.8 * np.repeat(loud, rate // fps) * np.sin(2 * np.pi * 440 * time)).astype(np.float32)
    path = tmp_path / f"talk{suffix}"
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=fps, options={"bf": "0"})
        video.width = video.height = 32
        sound = container.add_stream("pcm_s16le" if suffix == ".mov" else "aac", rate=rate, layout="mono")
        for place, light in enumerate(level):
            image = np.full((32, 32, 3), round(40 + 200 * light), np.uint8)
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = place + late, Fraction(1, fps)
            container.mux(video.encode(frame))
        for start in range(0, len(tone), 1024):
            samples = np.round(tone[None, start : start + 1024] * 32767).astype(np.int16)
            frame = av.AudioFrame.from_ndarray(samples, format="s16", layout="mono")
            frame.sample_rate, frame.pts = rate, start
            container.mux(sound.encode(frame))
        container.mux(video.encode(None))
        container.mux(sound.encode(None))
    source = PairedFiles([Pair("talk", path)], fps=None, size=None, length="exact", place={})
    material = source.read("talk").material
    shown = material.generated.at(np.arange(count)).double().mean(dim=(1, 2, 3)).numpy()
    heard = frame_loudness(material.audio, count, fps=material.fps)
    assert np.corrcoef(shown[:-1], heard[:-1])[0, 1] > 0.97


def test_pairs_that_do_not_fit_are_all_named_before_the_first_is_read(tmp_path):
    """A wrong length at the end of a list would throw away hours of grading."""
    made = {"true": (4, 32, 25), "short": (3, 32, 25), "big": (4, 48, 25), "slow": (4, 32, 10)}
    for name, (count, side, fps) in made.items():
        write_video(tmp_path / f"{name}.mp4", [np.zeros((side, side, 3), np.uint8)] * count, fps=fps)
    (tmp_path / "broken.mp4").write_text("no video")

    def check(*names, real="true", **settings):
        pairs = [Pair(name, tmp_path / f"{name}.mp4", tmp_path / f"{real}.mp4") for name in names]
        PairedFiles(pairs, place={}, **{"fps": None, "size": None, "length": "exact", **settings}).check()

    check("true", "broken", "lost")  # those are failed clips
    with pytest.raises(ValueError, match="3 pairs do not fit") as error:
        check("short", "big", "slow")
    for told in ("short.mp4 has 3 frames", "big.mp4 is 48x48", "slow.mp4 has 10 fps"):
        assert told in str(error.value)
    check("short", length="shortest")
    check("big", size=(32, 32))
    check("slow", fps=25.0)
    with pytest.raises(ValueError, match=r"broken\.mp4"):
        check("true", real="broken")
