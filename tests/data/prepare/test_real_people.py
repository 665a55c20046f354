"""What preparation makes of the real clips: who is in them, from where to where, and nobody mixed up."""

from dataclasses import replace

import numpy as np
import pytest

from portraitgen.data.prepare.photo import prepare_photo
from portraitgen.data.prepare.sources import SourceError, find_sources
from portraitgen.data.prepare.video import prepare_video
from portraitgen.faces.dlib import DlibBackend
from portraitgen.faces.tracking import track_faces
from portraitgen.media.decode import probe_video, read_video
from portraitgen.media.shots import scene_cuts
from tests.data.prepare.small_settings import small_settings

BACKEND = DlibBackend(min_score=0.15)  # as in conf/faces/dlib.yaml
SETTINGS = small_settings(
    size=128,
    fps=25,
    min_frames=12,
    max_frames=1000,
    photo_size=1024,
    videos_per_shard=4,
    photos_per_shard=1000,
)
SPEAKERS = (
    "clips/AOC_short.mp4",
    "clips/RD_Radio10_0_clip_0.mp4",
    "clips/WDA_AlexandriaOcasioCortez_000.mp4",
    "clips/carphone_pristine.mp4",
    "clips/pose_ref_video.mp4",
    "consisid_demo/dataname/videos/81FyMPk-WIS_segment_0_243_noFacePose_0_243.mp4",
)


def detections_of(images):
    """Faces of each frame, as preparation searches for them."""
    return [BACKEND.detect(image, embed=t % SETTINGS.embed_every == 0) for t, image in enumerate(images)]


def test_a_dissolve_from_one_person_to_another_is_two_tracks(shared):
    """Two real speakers whose faces overlap, one after the other; no cut is given, as none is found in a
    dissolve."""
    clips = shared / "testdata" / "clips"
    first, second = (
        read_video(clips / name)[:24] for name in ("WDA_AlexandriaOcasioCortez_000.mp4", "pose_ref_video.mp4")
    )
    detections = detections_of(first) + detections_of(second)
    assert len(track_faces(detections, min_score=BACKEND.min_score)) == 1, "positions alone mix them up"
    tracks = track_faces(
        detections, min_score=BACKEND.min_score, identity_threshold=BACKEND.identity_threshold
    )
    assert [(track.frames[0], track.frames[-1] < 24) for track in tracks] == [(24, False), (0, True)]
    assert tracks[0].embedding @ tracks[1].embedding < BACKEND.identity_threshold


@pytest.mark.slow
@pytest.mark.parametrize("name", SPEAKERS)
def test_one_speaker_is_one_track_over_the_whole_clip(shared, name, tmp_path):
    (source,) = find_sources(str(shared / "testdata" / name))
    labelled = replace(source, caption="somebody talks", identity_name="somebody")
    (sample,) = prepare_video(labelled, BACKEND, SETTINGS, tmp_path, lambda *_: None)
    assert (sample.caption, sample.tracks[0].identity_name) == ("somebody talks", "somebody")
    info = probe_video(source.path)
    assert sample.source["t1"] - sample.source["t0"] >= 0.95 * info.num_frames / info.fps
    assert sample.tracks[0].valid.mean() >= 0.95
    assert np.linalg.norm(sample.tracks[0].embedding) == pytest.approx(1, abs=1e-5)


@pytest.mark.slow
def test_many_people_are_cut_at_the_cuts_and_never_joined(shared, tmp_path):
    path = shared / "testdata" / "clips" / "multi_face_hamilton.mp4"
    images = read_video(path)
    cuts = scene_cuts(images)
    assert cuts == [20, 82, 211], "as one sees in the pictures"
    (source,) = find_sources(str(path))
    labelled = replace(source, identity_name="the singer")
    samples = list(prepare_video(labelled, BACKEND, replace(SETTINGS, fps=None), tmp_path, lambda *_: None))
    assert len(samples) == 2, (
        "the singer, and somebody in the audience; the others are in profile or too small"
    )
    embeddings = []
    for sample in samples:
        begin, end = (round(float(sample.source[name]) * 29.97) for name in ("t0", "t1"))
        assert not any(begin < cut < end for cut in cuts)
        embeddings.append(sample.tracks[0].embedding)
        # One person: each frame's face looks like the track's mean.
        for t in range(begin, end, 12):
            for face in BACKEND.detect(images[t], embed=True):
                if face.score >= BACKEND.min_score:
                    assert face.embedding @ embeddings[-1] > BACKEND.identity_threshold
    assert [sample.tracks[0].identity_name for sample in samples] == ["the singer", None]
    assert embeddings[0] @ embeddings[1] < BACKEND.identity_threshold


def test_nobody_is_found_where_nobody_is(shared):
    for source in find_sources(str(shared / "testdata" / "photos" / "negative")):
        with pytest.raises(SourceError, match="no face found"):
            prepare_photo(source, BACKEND, SETTINGS)
