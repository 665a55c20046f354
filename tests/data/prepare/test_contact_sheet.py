from dataclasses import replace

import numpy as np

from portraitgen.data.prepare.contact_sheet import contact_sheet
from tests.synthetic import synthetic_clip


def test_landmarks_of_unknown_order_are_points():
    """insightface's 106 for instance; and clips without any are drawn too."""
    clip = synthetic_clip("someone", num_frames=6)
    track = clip.tracks[0]
    drawn = []
    for scheme, landmarks in (
        ("insightface106", np.full((6, 106, 2), 20, np.float32)),
        ("none", np.zeros((6, 0, 2), np.float32)),
    ):
        tracks = (replace(track, landmarks=landmarks),)
        drawn.append(contact_sheet([replace(clip, tracks=tracks, landmark_scheme=scheme)]))
    assert drawn[0].shape == drawn[1].shape
    white = (drawn[0] == 255).all(axis=-1) & (drawn[1] != 255).any(axis=-1)
    assert 6 <= white.sum() < 600, "a point in each of the six frames"
