"""The videos of a comparison: what each run made of one video, with its sound."""

from pathlib import Path

import numpy as np

from portraitgen.media.audio import read_audio
from portraitgen.media.encode import write_video
from portraitgen.metrics.comparison import Comparison
from portraitgen.metrics.saved import SavedResults
from portraitgen.runs.evaluate.compare import _side_by_side


def test_a_video_side_by_side_has_its_sound(tmp_path):
    sound = np.sin(np.arange(16000) / 20).astype(np.float32)
    frames = [np.full((32, 32, 3), level, np.uint8) for level in range(0, 250, 10)]
    runs = {}
    for label in ("real", "old", "new"):
        (tmp_path / label).mkdir()
        write_video(tmp_path / label / "v.mp4", frames, fps=25, audio=sound)
        source = {"generated": str(tmp_path / label), "real": str(tmp_path / "real")}
        runs[label] = SavedResults(Path(label), (), {}, {}, {"source": source})
    comparison = Comparison(
        runs=runs,
        metrics={},
        left_out=(),
        estimates={},
        differences={},
        videos=("v",),
        units="videos",
        clashes={},
        interval_statement="",
    )
    video, _sheet = _side_by_side(comparison, "v", tmp_path / "media")
    heard = read_audio(video.path)
    assert heard is not None
    assert heard.std() > 0.3
