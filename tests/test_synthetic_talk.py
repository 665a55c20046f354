"""The synthetic talking set is what it says: the mouth opens as far, and when, the sound is loud."""

import json

import numpy as np

from portraitgen.faces.backend import largest_face
from portraitgen.faces.dlib import DlibBackend
from portraitgen.faces.measure import mouth_opening
from portraitgen.media.audio import read_audio
from portraitgen.media.decode import read_video
from portraitgen.metrics.mouth import frame_loudness
from tests.synthetic_talk import FPS, Portrait, write_talk


def test_what_is_written_beside_a_video_is_what_it_shows_and_sounds(tmp_path):
    path = tmp_path / "talk_003.mp4"
    openings = write_talk(path, portrait=Portrait(), seconds=1.6, seed=3)
    assert json.loads(path.with_suffix(".json").read_text())["opening"] == openings.tolist()
    assert len(openings) == 1.6 * FPS
    assert 0 <= openings.min() < 0.1 < 0.5 < openings.max() <= 1

    frames, backend = read_video(path), DlibBackend()
    assert len(frames) == len(openings)
    shown = [largest_face(backend.detect(frame[..., ::-1].copy())) for frame in frames[::4]]
    seen = [mouth_opening(face.landmarks) for face in shown]
    assert np.corrcoef(seen, openings[::4])[0, 1] > 0.9

    loudness = frame_loudness(read_audio(path), len(openings), fps=FPS)
    assert np.corrcoef(loudness, openings)[0, 1] > 0.9
    other = write_talk(tmp_path / "talk_004.mp4", portrait=Portrait(), seconds=1.6, seed=4)
    assert abs(np.corrcoef(openings, other)[0, 1]) < 0.8
