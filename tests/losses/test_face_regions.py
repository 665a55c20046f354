"""Boxes → maps of faces."""

import pytest
import torch

from portraitgen.losses.face_regions import face_regions

BOTH = torch.tensor([[True, True]])


def regions(boxes, people=BOTH, *, picture=(40, 40), grid=(4, 4), **options):
    return face_regions(torch.tensor([boxes], dtype=torch.float32), people, picture, grid, **options)


def test_a_cell_is_covered_by_more_than_half_or_at_its_centre():
    boxes = [[0, 0, 20, 14], [20, 20, 40, 40]]
    found = regions(boxes)
    assert found[0, 0].tolist() == [[1, 1, 0, 0], *[[0] * 4] * 3]  # four tenths of the second row
    assert found[0, 1, 2:, 2:].all()
    assert found[0, 1].sum() == 4
    assert regions([[0, 0, 20, 16], boxes[1]])[0, 0, 1].tolist() == [1, 1, 0, 0]
    assert regions(boxes, cover="centre")[0, 0, 1].tolist() == [0, 0, 0, 0]
    assert regions([[0, 0, 20, 15.1], boxes[1]], cover="centre")[0, 0, 1].tolist() == [1, 1, 0, 0]


def test_where_boxes_overlap_the_nearest_centre_in_halves_of_its_box_has_the_cell():
    boxes = [[0, 0, 30, 40], [20, 0, 40, 40]]
    shared = regions(boxes, overlap="shared")
    assert shared.sum(dim=1)[0, :, 2].tolist() == [2] * 4
    found = regions(boxes)
    assert torch.equal(found.amax(dim=1), shared.amax(dim=1))
    assert found.sum(dim=1).max() == 1
    # Cell 2, centre at 25: 10 of 15 from the first's centre, 5 of 10 from the second's.
    assert found[0, 0, 0].tolist() == [1, 1, 0, 0]
    assert found[0, 1, 0].tolist() == [0, 0, 1, 1]


def test_a_face_smaller_than_a_cell_has_the_cell_of_its_centre():
    small = [12.0, 12.0, 15.0, 15.0]
    assert regions([small, [30, 30, 40, 40]])[0, 0].nonzero().tolist() == [[1, 1]]
    # Also inside a larger face.
    found = regions([[0, 0, 40, 40], small])
    assert found[0, 1].nonzero().tolist() == [[1, 1]]
    assert found[0, 0].sum() == 15
    assert regions([small, small])[0].sum() == 1


def test_places_without_a_person_are_empty_whatever_their_box():
    found = regions([[0, 0, 40, 40], [float("nan")] * 4], torch.tensor([[True, False]]))
    assert found[0, 0].all()
    assert not found[0, 1].any()


def test_faces_at_the_edge_and_pictures_that_are_no_square():
    found = regions([[-20, 0, 20, 20], [70, 10, 90, 30]], picture=(20, 80), grid=(2, 8))
    assert found[0, 0].tolist() == [[1, 1, 0, 0, 0, 0, 0, 0]] * 2
    assert found[0, 1].tolist() == [[0] * 8, [0] * 7 + [1]]


def test_unknown_settings_are_refused():
    with pytest.raises(ValueError, match="cover is 'half': use one of area, centre"):
        regions([[0, 0, 1, 1]] * 2, cover="half")
    with pytest.raises(ValueError, match="overlap is 'both': use one of nearest, shared"):
        regions([[0, 0, 1, 1]] * 2, overlap="both")
