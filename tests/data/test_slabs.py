"""Recycled shared memory: a slab is never written while anyone still looks at it."""

import gc
import pickle

import numpy as np
import pytest
import torch

from portraitgen.data.batch import BatchLayout, Field
from portraitgen.data.slabs import SlabRing

LAYOUT = BatchLayout(
    {
        "frames": Field((3, 12, 16), np.dtype(np.uint8)),
        "frame_index": Field((3,), np.dtype(np.int64)),
        "landmarks": Field((3, 5, 2), np.dtype(np.float32)),
        "reference_index": Field((), np.dtype(np.int64)),
        "motion_found": Field((5,), np.dtype(np.bool_)),
    }
)
SMALLER = BatchLayout({"image": Field((4, 4, 3), np.dtype(np.uint8))})


@pytest.fixture
def ring():
    return SlabRing((LAYOUT, SMALLER), 2, num_workers=2, slabs_per_worker=2)


def test_fields_do_not_overlap():
    block = np.zeros(LAYOUT.num_bytes(2), np.uint8)
    arrays = LAYOUT.views(block, 2)
    assert {name: (array.shape, str(array.dtype)) for name, array in arrays.items()} == {
        "frames": ((2, 3, 12, 16), "uint8"),
        "frame_index": ((2, 3), "int64"),
        "landmarks": ((2, 3, 5, 2), "float32"),
        "reference_index": ((2,), "int64"),
        "motion_found": ((2, 5), "bool"),
    }
    for number, array in enumerate(arrays.values(), start=-4):
        array[...] = number < 0 if array.dtype == bool else number % 256
    for number, array in enumerate(arrays.values(), start=-4):
        assert np.all(array == (number < 0 if array.dtype == bool else number % 256))
        assert array.ctypes.data % array.itemsize == 0


def test_a_slab_arrives_as_what_was_written(ring):
    slab = ring.take(1, 2)
    ring.arrays(slab)["landmarks"][:] = 7
    tensors = pickle.loads(pickle.dumps(slab))
    assert torch.equal(tensors["landmarks"], torch.full((2, 3, 5, 2), 7.0))
    ring.arrays(slab)["landmarks"][:] = 8
    assert torch.equal(tensors["landmarks"], torch.full((2, 3, 5, 2), 8.0)), "copied, not shared"


def test_a_slab_holds_a_batch_of_any_layout(ring):
    slab = ring.take(0, 2, layout=1)
    ring.arrays(slab)["image"][:] = 9
    tensors = pickle.loads(pickle.dumps(slab))
    assert {name: tuple(tensor.shape) for name, tensor in tensors.items()} == {"image": (2, 4, 4, 3)}
    assert torch.all(tensors["image"] == 9)


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
