"""Results read back are the results that were written, to the last digit."""

import numpy as np
import pytest

from portraitgen.metrics.grader import SetFigure
from portraitgen.metrics.graders.pixels import METRICS as PIXELS
from portraitgen.metrics.protocol import Protocol, VideoFacts
from portraitgen.metrics.report.report import write_report
from portraitgen.metrics.results import aggregate
from portraitgen.metrics.saved import load_results, protocol_json, results_json
from portraitgen.metrics.scores import MetricInfo, Row

METRICS = {
    **PIXELS,
    "sync_c": MetricInfo("Sync-C", "", 2, True, "how surely the lips follow the sound", "clip"),
    "fid": MetricInfo("FID", "", 1, False, "distance of all frames from the true ones", "set"),
}


@pytest.fixture
def results():
    values = np.random.default_rng(0).normal(20, 2, (2, 3))
    values[1, 2] = np.nan
    rows = [
        Row("a", "generated", np.array([4, 5, 9]), {"psnr": values[0], "sync_c": np.array(1 / 3)}),
        Row(
            "b",
            "generated",
            np.arange(3),
            {"psnr": values[1], "sync_c": np.array(np.nan)},
            {"psnr": "black", "sync_c": "too short"},
        ),
        Row("c", "generated", np.arange(3), {}, failure="c.mp4: no such file"),
        *(Row(video, "truth", frames, {"sync_c": np.array(2.0)}) for video, frames in (
            ("a", np.array([4, 5, 9])), ("b", np.arange(3)))),
    ]  # fmt: skip
    protocol = Protocol(
        videos=(VideoFacts("a", 3, 25.0, 8, 8, "01"),),
        frame_sampler="all frames",
        resize="none",
        crop="none",
        face_backend="dlib",
        min_face_score=0.0,
    )
    sets = {"generated": {"fid": SetFigure(1 / 7, 6, 1, bias=0.5, reason="2 frames without a face")}}
    return aggregate(rows, metrics=METRICS, protocol=protocol, sets=sets, skipped={"clip": "no weights"})


def test_what_is_read_is_what_was_written(results, tmp_path):
    write_report(results, tmp_path, title="t")
    saved = load_results(tmp_path)
    assert dict(saved.metrics) == METRICS
    assert saved.protocol == protocol_json(results)
    assert saved.skipped == {"clip": "no weights"}
    assert saved.sets == {
        "fid": SetFigure(1 / 7, 6, 1, bias=0.5, reason="all videos: 2 frames without a face")
    }
    assert [(row.video, row.method) for row in saved.rows] == [
        (row.video, row.method) for row in results.rows
    ]
    for read, written in zip(saved.rows, results.rows, strict=True):
        assert read.method == written.method
        assert (read.failure, read.reasons) == (written.failure, written.reasons)
        assert read.scores.keys() == written.scores.keys()
        for name, values in written.scores.items():
            np.testing.assert_array_equal(read.scores[name], values)
        if written.failure is None:
            np.testing.assert_array_equal(read.frames, written.frames)


def test_a_figure_of_the_truth_and_a_figure_against_the_truth_have_two_names():
    """`identity_dlib` of the true frames overwrote `identity_dlib_truth` of the generated ones."""
    info = {name: MetricInfo(name, "", 2, True, name, "clip") for name in ("id", "id_truth")}
    protocol = Protocol((), "all frames", "none", "none", "dlib", 0.0)
    rows = [
        Row("a", "generated", np.arange(2), {"id": np.array(0.1), "id_truth": np.array(0.2)}),
        Row("a", "truth", np.arange(2), {"id": np.array(0.3)}),
    ]
    written = results_json(aggregate(rows, metrics=info, protocol=protocol))
    assert (written["id"], written["id_truth"], written["id.truth"]) == (0.1, 0.2, 0.3)


def test_files_that_are_not_results_are_an_error(results, tmp_path):
    with pytest.raises(ValueError, match=r"results\.json: no such file"):
        load_results(tmp_path)
    write_report(results, tmp_path, title="t")
    text = (tmp_path / "results.json").read_text()
    (tmp_path / "results.json").write_text(text.replace('"rows"', '"lines"'))
    with pytest.raises(ValueError, match=r"is not what this evaluate\.py writes \(KeyError: 'rows'\)"):
        load_results(tmp_path / "results.json")
    (tmp_path / "frames.csv").unlink()
    with pytest.raises(ValueError, match=r"frames\.csv: no such file"):
        load_results(tmp_path)
