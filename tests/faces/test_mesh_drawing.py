"""The drawing of the face mesh against the official one, and what it does with points that are missing."""

import json
from pathlib import Path

import numpy as np
import pytest

from portraitgen.faces.mesh_drawing import draw_face_mesh


@pytest.fixture(scope="module")
def golden(shared: Path) -> list[tuple[dict, np.ndarray, np.ndarray]]:
    """(settings, landmarks [468, 2], picture [H, W, 3]) of each case."""
    with np.load(shared / "golden/aniportrait_draw.npz", allow_pickle=False) as file:
        cases = json.loads(str(file["meta"]))
        return [(case, file[f"k{index}"], file[f"img{index}"]) for index, case in enumerate(cases)]


def test_official_drawings_bit_for_bit(golden):
    for index, (case, landmarks, expected) in enumerate(golden):
        width, height = case["size"]
        (drawing,) = draw_face_mesh(
            landmarks[None],
            image_size=(1, 1) if case["normed"] else (height, width),
            canvas_size=(height, width),
            forehead=case["forehead"],
        )
        assert np.array_equal(drawing.transpose(1, 2, 0), expected), f"case {index}: {case}"
    assert len(golden) == 36


def test_frames_are_drawn_on_their_own_and_irises_not_at_all(golden):
    first, second = golden[0][1], golden[4][1] / 768 * 512
    clip = np.stack([first, second])
    clip = np.concatenate([clip, np.full((2, 10, 2), 100.0)], axis=1)
    together = draw_face_mesh(clip, image_size=(512, 512), canvas_size=(128, 96))
    assert together.shape == (2, 3, 128, 96)
    for frame, landmarks in zip(together, (first, second), strict=True):
        alone = draw_face_mesh(landmarks[None], image_size=(512, 512), canvas_size=(128, 96))
        assert np.array_equal(frame, alone[0])


def test_missing_points_take_only_their_lines_away(golden):
    landmarks = golden[0][1][None].astype(np.float32)
    size = {"image_size": (512, 512), "canvas_size": (512, 512)}
    whole = draw_face_mesh(landmarks, **size)
    for hidden in (np.nan, -0.01, 512.5):
        without = landmarks.copy()
        without[0, 152, 1] = hidden
        drawing = draw_face_mesh(without, **size)
        changed = np.argwhere((drawing != whole).any(axis=1)[0])
        assert len(changed)
        around = landmarks[0, [377, 152, 148]][:, ::-1]
        assert (changed >= around.min(axis=0) - 2).all()
        assert (changed <= around.max(axis=0) + 2).all()
    assert not draw_face_mesh(np.full_like(landmarks, np.nan), **size).any()


@pytest.mark.parametrize("shape", [(1, 68, 2), (468, 2), (1, 468, 3)])
def test_other_landmarks_are_refused(shape):
    with pytest.raises(ValueError, match="a face mesh must be"):
        draw_face_mesh(np.zeros(shape), image_size=(512, 512), canvas_size=(512, 512))
