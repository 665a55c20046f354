import io
import sys
from dataclasses import fields

import numpy as np
import pytest

from portraitgen.data.prepare.stored_faces import StoredFaces
from portraitgen.faces.types import Face

RNG = np.random.default_rng(0)


def face(embedded=False):
    arrays = (RNG.normal(size=shape).astype(np.float32) for shape in ((4,), (68, 2), (5, 2), (128,)))
    box, landmarks, keypoints, embedding = arrays
    return Face(box, float(RNG.uniform()), landmarks, keypoints, embedding if embedded else None)


def test_what_is_read_is_what_was_put_in(tmp_path):
    frames = [[], [face(True)], [], [face(), face(True), face(True)], [face()]]
    with (tmp_path / "faces").open("w+b") as file:
        stored = StoredFaces(file)
        for faces in frames:
            stored.append(faces)
        assert len(stored) == 5
        assert [len(faces) for faces in stored] == [0, 1, 0, 3, 1]
        for frame in (3, 1, 4, -1):  # in any order
            for before, after in zip(frames[frame], stored[frame], strict=True):
                for field in fields(Face):
                    np.testing.assert_array_equal(getattr(before, field.name), getattr(after, field.name))
        assert [len(faces) for faces in stored[1:4]] == [1, 0, 3]
        with pytest.raises(IndexError):
            stored[5]


def test_memory_holds_only_where_the_frames_are():
    file = io.BytesIO()
    stored = StoredFaces(file)
    one = face(True)
    for _ in range(1000):
        stored.append([one])
    assert len(file.getvalue()) > 1000 * 1000
    assert sum(sys.getsizeof(column) for column in (stored._counts, stored._ends)) < 20_000
