"""Tracks: one face each, through misses and weak detections, never across a cut, never exchanging faces."""

from pathlib import Path

import numpy as np
import pytest

from portraitgen.faces.dlib import DlibBackend
from portraitgen.faces.tracking import track_faces
from portraitgen.faces.types import Face
from portraitgen.media.decode import read_video
from portraitgen.media.shots import scene_cuts


def face(x: float, y: float = 50, *, side: float = 40, score: float = 1.0, person: int | None = None) -> Face:
    box = np.array([x, y, x + side, y + side], np.float32)
    landmarks = np.full((68, 2), x, np.float32)
    embedding = None if person is None else np.eye(4, dtype=np.float32)[person]
    return Face(box, score, landmarks, landmarks[:5], embedding)


def test_the_talking_man_is_one_track_over_all_frames(carphone: Path) -> None:
    backend = DlibBackend()
    detections = [backend.detect(image) for image in read_video(carphone)]
    assert any(faces[0].score < backend.min_score for faces in detections), "some frames are weak"
    (track,) = track_faces(detections, min_score=backend.min_score)
    assert track.frames.tolist() == list(range(120))
    steps = np.linalg.norm(np.diff(track.keypoints.mean(axis=1), axis=0), axis=-1)
    assert steps.max() < 12


def test_no_track_spans_a_cut(shared: Path) -> None:
    backend = DlibBackend()
    images = read_video(shared / "testdata" / "clips" / "multi_face_hamilton.mp4")[74:100]
    cuts = scene_cuts(images)
    assert cuts == [8]
    tracks = track_faces([backend.detect(image) for image in images], cuts=cuts, min_score=backend.min_score)
    assert tracks
    assert all(track.frames[0] >= 8 or track.frames[-1] < 8 for track in tracks)


def test_a_cut_ends_a_track_even_where_boxes_agree() -> None:
    detections = [[face(100)] for _ in range(20)]
    assert len(track_faces(detections, min_score=0)) == 1
    first, second = sorted(track_faces(detections, cuts=[8], min_score=0), key=lambda track: track.frames[0])
    assert first.frames.tolist() == list(range(8))
    assert second.frames.tolist() == list(range(8, 20))


def test_weak_detections_continue_a_track_but_begin_none() -> None:
    scores = [-0.3, -0.2, 1.0, -0.4, -0.4, 1.0, 1.0, -0.3]
    detections = [[face(100 + 2 * t, score=score)] for t, score in enumerate(scores)]
    (track,) = track_faces(detections, min_score=0)
    assert track.frames.tolist() == list(range(8)), "grown backward too"
    assert track.scores.tolist() == pytest.approx(scores)
    assert track_faces([[face(100, score=-0.1)]] * 8, min_score=0) == []


def test_gaps_are_bridged_by_the_predicted_motion() -> None:
    detections = [[face(10 + 9 * t)] if not 10 <= t < 16 else [] for t in range(30)]
    (track,) = track_faces(detections, min_score=0, max_gap=8)
    assert len(track.frames) == 24
    assert len(track_faces(detections, min_score=0, max_gap=4)) == 2


def test_two_people_passing_keep_their_tracks() -> None:
    detections = [[face(20 + 6 * t, 50), face(200 - 6 * t, 62)] for t in range(31)]
    shuffled = [faces if t % 3 else faces[::-1] for t, faces in enumerate(detections)]
    tracks = track_faces(shuffled, min_score=0)
    assert len(tracks) == 2
    for track in tracks:
        assert len(track.frames) == 31
        assert len(set(track.boxes[:, 1].tolist())) == 1, "each keeps its height in the picture"


def test_identity_decides_where_boxes_do_not() -> None:
    """Two faces that jump into each other's place within one missed frame."""
    detections = [[face(100, person=0), face(112, person=1)] for _ in range(5)]
    detections += [[face(112, person=0), face(100, person=1)] for _ in range(5)]
    for track in track_faces(detections, min_score=0, identity_threshold=0.5):
        assert track.embedding is not None
        assert len(track.frames) == 10
        assert track.embedding.max() == pytest.approx(1.0), "one person, not a mixture"


def test_one_person_lost_for_long_is_joined_by_identity_within_the_shot() -> None:
    detections = (
        [[face(50, person=2)]] * 6 + [[]] * 30 + [[face(150, person=2)]] * 6 + [[face(150, person=1)]] * 6
    )
    apart = track_faces(detections, min_score=0)
    assert [len(track.frames) for track in apart] == [12, 6]
    detections = [[face(50, person=2)]] * 6 + [[]] * 30 + [[face(150, person=2)]] * 6
    assert len(track_faces(detections, min_score=0)) == 2
    (joined,) = track_faces(detections, min_score=0, identity_threshold=0.9)
    assert joined.frames.tolist() == [*range(6), *range(36, 42)]
    assert len(track_faces(detections, min_score=0, cuts=[20], identity_threshold=0.9)) == 2
    other = detections[:36] + [[face(150, person=1)]] * 6
    assert len(track_faces(other, min_score=0, identity_threshold=0.9)) == 2


def test_embeddings_of_some_frames_are_enough() -> None:
    """Also for faces that cross: each has one only in every fourth frame."""
    detections = [
        [
            face(20 + 6 * t, 50, person=0 if t % 4 == 0 else None),
            face(200 - 6 * t, 56, person=1 if t % 4 == 0 else None),
        ]
        for t in range(31)
    ]
    tracks = track_faces(detections, min_score=0, identity_threshold=0.5)
    assert [len(track.frames) for track in tracks] == [31, 31]
    for track in tracks:
        assert track.embedding is not None
        assert track.embedding.max() == pytest.approx(1.0)


def test_sure_faces_say_who_it_is() -> None:
    """A weak one, turned away or half covered, resembles anybody."""
    detections = [[face(50, score=-0.2 if t % 2 else 1, person=t % 2)] for t in range(12)]
    (track,) = track_faces(detections, min_score=0, identity_threshold=0.9)
    assert track.embedding is not None
    assert track.embedding.tolist() == [1, 0, 0, 0]


def test_a_change_of_person_without_a_cut_ends_the_track() -> None:
    """What lies between the last embedding of the one and the first of the other is left out."""
    detections = [[face(50, person=int(t >= 16) if t % 3 == 0 else None)] for t in range(30)]
    first, second = sorted(
        track_faces(detections, min_score=0, identity_threshold=0.5), key=lambda track: track.frames[0]
    )
    assert first.frames.tolist() == list(range(16))
    assert second.frames.tolist() == list(range(18, 30))
    assert len(track_faces(detections, min_score=0)) == 1, "positions alone cannot know"


def test_one_odd_embedding_does_not_end_a_track() -> None:
    detections = [[face(50, person=1 if t == 15 else 0)] for t in range(30)]
    (track,) = track_faces(detections, min_score=0, identity_threshold=0.5)
    assert len(track.frames) == 30


def test_two_people_in_one_frame_are_never_joined() -> None:
    """Twins: all embeddings agree, and yet they are two. A third stretch joins the one that it can."""
    detections = [[face(50, person=0), face(200, person=0)] for _ in range(8)]
    detections += [[]] * 20 + [[face(50, person=0)]] * 8
    tracks = track_faces(detections, min_score=0, identity_threshold=0.9)
    assert sorted(len(track.frames) for track in tracks) == [8, 16]


def test_interleaved_stretches_of_one_person_are_joined() -> None:
    """Left, right, left again: the first and the third may be joined before the second."""
    stretches = [(50, 0), (400, 10), (50, 30), (400, 45)]
    detections: list[list[Face]] = [[] for _ in range(52)]
    for x, begin in stretches:
        for t in range(begin, begin + 6):
            detections[t] = [face(x, person=3)]
    (track,) = track_faces(detections, min_score=0, max_gap=3, identity_threshold=0.9)
    assert len(track.frames) == 24
    assert (np.diff(track.frames) > 0).all()


def test_flickers_are_dropped_and_the_longest_comes_first() -> None:
    detections = [[face(50)] + ([face(200)] if t >= 4 else []) for t in range(10)]
    detections[2].append(face(400))
    tracks = track_faces(detections, min_score=0, min_hits=3)
    assert [len(track.frames) for track in tracks] == [10, 6]
    assert len(track_faces(detections, min_score=0, min_hits=1)) == 3
    once_sure = [[face(50, score=0.1 if t == 4 else -0.2)] for t in range(10)]
    assert track_faces(once_sure, min_score=0) == []
    assert track_faces([], min_score=0) == []
    assert track_faces([[], []], min_score=0) == []


def test_a_part_of_a_path_takes_only_its_own_embeddings_along() -> None:
    """Person 0 is left while person 1 is right, then comes back where person 1 was, without a cut."""
    detections = [[face(50, person=0), face(200, person=1)] for _ in range(10)]
    detections += [[face(200, person=0)] for _ in range(10)]
    tracks = track_faces(detections, min_score=0, max_gap=3, identity_threshold=0.5)
    assert [len(track.frames) for track in tracks] == [20, 10]
    assert [track.embedding.tolist() for track in tracks if track.embedding is not None] == [
        [1, 0, 0, 0],
        [0, 1, 0, 0],
    ]
