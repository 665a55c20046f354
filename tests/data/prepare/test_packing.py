from dataclasses import fields
from itertools import chain

import numpy as np

from portraitgen.data.prepare.packing import packed
from portraitgen.faces.types import Face


def test_packed_faces_are_the_same_faces():
    rng = np.random.default_rng(0)

    def face(embedded):
        arrays = (rng.normal(size=shape).astype(np.float32) for shape in ((4,), (68, 2), (5, 2), (128,)))
        box, landmarks, keypoints, embedding = arrays
        return Face(box, float(rng.uniform()), landmarks, keypoints, embedding if embedded else None)

    frames = [[face(True)], [], [face(False), face(True)], [face(False)]]
    again = packed(frames)
    assert [len(faces) for faces in again] == [1, 0, 2, 1]
    for before, after in zip(chain(*frames), chain(*again), strict=True):
        for field in fields(Face):
            np.testing.assert_array_equal(getattr(before, field.name), getattr(after, field.name))
    blocks = {id(each.landmarks.base) for faces in again for each in faces}
    assert len(blocks) == 1
    assert packed([[], []]) == [[], []]
