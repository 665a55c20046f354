"""Pairs of photos: both show one person, the mask covers what it says, and everything lies where it is."""

import numpy as np
import pytest
import torch

from portraitgen.data.on_device import to_floats
from portraitgen.data.sample import DataError
from portraitgen.data.shards import ShardWriter
from portraitgen.faces.templates import ARCFACE, upright_crop
from portraitgen.media.masks import hull_mask
from tests.data.modules import pair_module
from tests.data.photos import Person, photo


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Ann thrice (once with Bob behind her), Bob twice, and Cat, of whom there is one photo only."""
    folder = tmp_path_factory.mktemp("pairs")
    with ShardWriter(folder, max_samples=2) as writer:
        for name, people in {
            "ann1": [Person(40, 30, 120, seed=3, name="Ann"), Person(190, 60, 80, seed=4, name="Bob")],
            "ann2": [Person(10, 20, 160, seed=5, name="Ann")],
            "ann3": [Person(60, 60, 140, seed=7, name="Ann")],
            "bob": [Person(30, 50, 100, seed=4, name="Bob")],
            "cat": [Person(30, 50, 150, seed=6, name="Cat")],
            "nobody": [Person(30, 50, 150, seed=8)],
        }.items():
            writer.write(photo(name, (240, 320), people, seed=len(name), caption=name, masks=True))
    return folder


def batches(root, count=16, **settings):
    settings = {"batch_size": 1, "samples_per_epoch": count, "size": [96, 128], **settings}
    return list(pair_module(str(root / "shards/*.tar"), **settings).train_dataloader())


def named(batch):
    return batch["key"][0].partition("-")[0]


def test_both_photos_show_one_person_who_is_in_two_of_them(root):
    seen = batches(root, captions=True)
    assert {named(batch) for batch in seen} == {"ann1", "ann2", "ann3", "bob"}, "Cat and nobody have no other"
    for batch in seen:
        assert batch["caption"] == [named(batch)]
        assert batch["ref"].shape == (1, 96, 128, 3)
        assert not np.array_equal(batch["ref"].numpy(), batch["result"].numpy())
    first = [batch["ref"].numpy() for batch in seen if named(batch) == "ann2"]
    assert any(not np.array_equal(first[0], other) for other in first[1:]), "drawn anew each time"


@pytest.mark.parametrize("flip", [0.0, 1.0])
@pytest.mark.parametrize("ref", ["other", "own"])
def test_key_points_lie_on_the_faces_of_both(root, flip, ref):
    for batch in batches(root, 6, flip=flip, ref=ref, size=[240, 320], ref_size=160, faces=112):
        assert batch["ref"].shape == (1, 160, 160, 3)
        for points in (batch["key_points"][0, 0].numpy(), batch["ref_key_points"][0].numpy()):
            assert points[0, 0] < points[1, 0], "left is left in the picture"
        image, points = batch["result"][0].numpy(), batch["key_points"][0, 0].numpy()
        cut = upright_crop(image, points, ARCFACE).astype(float)
        assert np.abs(cut - batch["faces"][0, 0].numpy())[30:80, 30:80].mean() < 12
        if ref == "own":  # the same face, from the same photo
            other = upright_crop(batch["ref"][0].numpy(), batch["ref_key_points"][0].numpy(), ARCFACE)
            assert np.abs(cut - other)[30:80, 30:80].mean() < 14


def test_the_mask_covers_the_region_and_its_surroundings(root):
    for batch in batches(root, 6, regions=["box"], grow=0.25, flip=0.5):
        mask, (left, top, right, bottom) = batch["mask"][0].numpy(), batch["boxes"][0, 0].numpy()
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        spare = 0.25 * max(right - left, bottom - top)
        assert columns[0] == pytest.approx(max(left - 0.25 * (right - left), 0), abs=1)
        assert columns[-1] + 1 == pytest.approx(min(right + 0.25 * (right - left), 128), abs=1)
        assert rows[0] >= top - spare - 1
        assert batch["data_type"] == ["person_head"]
    for batch in batches(root, 6, regions=["face"], grow=0.0, flip=0.5):
        landmarks_hull = batch["mask"][0].numpy().astype(bool)
        inside = batch["key_points"][0, 0].numpy().astype(int)
        assert landmarks_hull[inside[:, 1], inside[:, 0]].all()
    grown, plain = (batches(root, 1, regions=["face"], grow=grow)[0]["mask"].sum() for grow in (0.2, 0.0))
    assert grown > 1.3 * plain


def test_on_the_device_src_is_result_without_what_is_covered(root):
    (batch,) = batches(root, 1)
    floats = to_floats(batch)
    assert floats["result"].shape == floats["src"].shape == (1, 3, 96, 128)
    assert floats["mask"].shape == (1, 1, 96, 128)
    assert floats["ref"].dtype == torch.float32
    covered = floats["mask"].bool().expand_as(floats["src"])
    assert (floats["src"][covered] == 0).all()
    assert torch.equal(floats["src"][~covered], floats["result"][~covered])


def test_workers_and_restarts_draw_the_same_pairs(root):
    one, two = (batches(root, 8, num_workers=workers, flip=0.5) for workers in (0, 2))
    for left, right in zip(one, two, strict=True):
        assert left["key"] == right["key"]
        for name in ("result", "ref", "mask", "ref_key_points"):
            assert torch.equal(left[name], right[name]), name


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"ref": "any"}, "ref=any: give other or own"),
        ({"regions": ["hair"]}, "regions=.'hair'.: give a list of box, face, head, person"),
        ({"regions": ["head"]}, "regions=head: none of 4 samples has masks of the head"),
        ({"grow": -1}, "grow=-1: give a share"),
        ({"train_span": [0.7, 1.0]}, "nobody in 2 photos is known by name and in another photo too"),
    ],
)
def test_what_cannot_be_is_refused_by_name(root, settings, message):
    with pytest.raises(DataError, match=message):
        batches(root, **settings)


def test_the_hull_is_what_is_stored(root):
    """Masks come from the shard, moved with the photo."""
    (batch,) = batches(root, 1, regions=["face"], grow=0.0)
    assert batch["mask"].sum() > 0.02 * 96 * 128
    assert hull_mask(batch["key_points"][0, 0].numpy(), (96, 128)).sum() < batch["mask"].sum()
