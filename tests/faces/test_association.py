import numpy as np

from portraitgen.faces.association import match_boxes, match_parts


def box(x, y, width, height):
    return [x, y, x + width, y + height]


def test_faces_belong_to_the_persons_who_hold_them():
    """Of two persons who both contain a face the one whose head it is has more in common with it."""
    persons = np.array([box(0, 0, 100, 300), box(60, 0, 80, 280)], float)
    faces = np.array([box(105, 10, 20, 25), box(30, 10, 20, 25), box(400, 0, 20, 20)], float)
    assert match_parts(faces, persons) == {0: 1, 1: 0}
    heads = np.array([box(100, 0, 32, 42), box(25, 0, 30, 40)], float)
    assert match_parts(faces, heads) == {0: 0, 1: 1}
    assert match_parts(heads, persons) == {0: 1, 1: 0}


def test_every_whole_has_one_such_part():
    faces, person = np.array([box(10, 10, 10, 10), box(30, 10, 12, 12)], float), np.array([box(0, 0, 90, 90)])
    assert match_parts(faces, person) == {1: 0}
    nobody = np.zeros((0, 4))
    assert match_parts(faces, nobody) == match_parts(nobody, person) == {}
    assert match_boxes(faces, nobody, min_iou=0.5) == match_boxes(nobody, person, min_iou=0.5) == {}


def test_half_a_face_is_not_enough():
    person = np.array([box(0, 0, 100, 200)], float)
    assert match_parts(np.array([box(89, 10, 20, 20)], float), person) == {0: 0}
    assert match_parts(np.array([box(91, 10, 20, 20)], float), person) == {}


def test_same_boxes_are_found_by_overlap():
    before = np.array([box(0, 0, 50, 50), box(60, 0, 50, 50)], float)
    after = np.array([box(62, 0, 50, 50), box(30, 0, 50, 50), box(1, 1, 50, 50)], float)
    assert match_boxes(after, before, min_iou=0.5) == {0: 1, 2: 0}
