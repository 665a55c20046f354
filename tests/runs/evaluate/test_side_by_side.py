"""The videos of a comparison: what each run made of one video, with its sound."""

import numpy as np

from portraitgen.media.audio import read_audio
from portraitgen.media.encode import write_video
from portraitgen.runs.evaluate.side_by_side import side_by_side
from portraitgen.runs.evaluate.sources.choose import source_of_results


def test_a_video_side_by_side_has_its_sound(tmp_path):
    sound = np.sin(np.arange(16000) / 20).astype(np.float32)
    frames = [np.full((32, 32, 3), level, np.uint8) for level in range(0, 250, 10)]
    materials = {}
    for label in ("real", "old", "new"):
        (tmp_path / label).mkdir()
        write_video(tmp_path / label / "v.mp4", frames, fps=25, audio=sound)
        source = {"generated": str(tmp_path / label), "real": str(tmp_path / "real")}
        materials[label] = source_of_results(source).read("v").material
    video, _sheet = side_by_side({**materials, "gone": None}, "v", tmp_path / "media")
    assert video.caption == "v. A: real; B: old; C: new"
    heard = read_audio(video.path)
    assert heard is not None
    assert heard.std() > 0.3
