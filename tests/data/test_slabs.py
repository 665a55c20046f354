"""Recycled shared memory: a slab is never written while anyone still looks at it."""

import gc
import pickle

import numpy as np
import pytest
import torch

from portraitgen.data.batch import BatchLayout
from portraitgen.data.slabs import SlabRing

LAYOUT = BatchLayout(clip_frames=3, size=(8, 16), num_landmarks=5, pose_size=(4, 4))


@pytest.fixture
def ring():
    return SlabRing(LAYOUT, 2, num_workers=2, slabs_per_worker=2)


def test_layout_is_the_documented_table_and_its_fields_do_not_overlap():
    block = np.zeros(LAYOUT.num_bytes(2), np.uint8)
    arrays = LAYOUT.views(block, 2)
    assert {name: (array.shape, str(array.dtype)) for name, array in arrays.items()} == {
        "frames": ((2, 3, 12, 16), "uint8"),
        "frame_index": ((2, 3), "int64"),
        "landmarks": ((2, 3, 5, 2), "float32"),
        "reference": ((2, 12, 16), "uint8"),
        "reference_index": ((2,), "int64"),
        "reference_landmarks": ((2, 5, 2), "float32"),
        "pose": ((2, 3, 3, 4, 4), "uint8"),
    }
    for number, array in enumerate(arrays.values(), start=1):
        array[...] = number
    for number, array in enumerate(arrays.values(), start=1):
        assert np.all(array == number)
        assert array.ctypes.data % array.itemsize == 0


def test_a_slab_arrives_as_what_was_written(ring):
    slab = ring.take(1, 2)
    ring.arrays(slab)["landmarks"][:] = 7
    tensors = pickle.loads(pickle.dumps(slab))
    assert torch.equal(tensors["landmarks"], torch.full((2, 3, 5, 2), 7.0))
    ring.arrays(slab)["landmarks"][:] = 8
    assert torch.equal(tensors["landmarks"], torch.full((2, 3, 5, 2), 8.0)), "copied, not shared"


def test_a_slab_is_free_only_when_the_last_view_of_it_is_gone(ring):
    slabs = [ring.take(0, 2), ring.take(0, 2)]
    assert ring.take(0, 2) is None
    assert ring.take(1, 2) is not None, "the other worker has slabs of its own"
    first, second = (pickle.loads(pickle.dumps(slab)) for slab in slabs)
    view = first["frames"][0].view(-1)[3:].numpy()[2:]
    del first
    gc.collect()
    assert ring.take(0, 2) is None, "a numpy view of a tensor view is still held"
    del view
    gc.collect()
    again = ring.take(0, 2)
    assert again.number == slabs[0].number
    assert ring.take(0, 2) is None
    del second
    gc.collect()
    assert ring.take(0, 2).number == slabs[1].number


def test_tensors_outlive_their_ring(ring):
    slab = ring.take(0, 1)
    ring.arrays(slab)["frames"][:] = 5
    frames = ring.tensors(slab)["frames"]
    del ring
    gc.collect()
    assert frames.shape == (1, 3, 12, 16)
    assert torch.all(frames == 5)
