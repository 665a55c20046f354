"""From rows to estimates, intervals and verdicts."""

import dataclasses

import numpy as np
import pytest

from portraitgen.metrics.bootstrap import percentile_interval, resample_frames, resample_videos
from portraitgen.metrics.checks import Check
from portraitgen.metrics.grader import SetFigure
from portraitgen.metrics.graders.landmarks import METRICS as LANDMARK_METRICS
from portraitgen.metrics.graders.pixels import METRICS as PIXEL_METRICS
from portraitgen.metrics.protocol import Protocol, VideoFacts
from portraitgen.metrics.report.tables import results_markdown
from portraitgen.metrics.results import Results, aggregate
from portraitgen.metrics.scores import MetricInfo, Row

METRICS = {
    **PIXEL_METRICS,
    **LANDMARK_METRICS,
    "sync_c": MetricInfo("Sync-C", "", 2, True, "how surely the lips follow the sound", "clip"),
    "fid": MetricInfo("FID", "", 1, False, "distance of all frames from the true ones", "set"),
}
PROTOCOL = Protocol(
    videos=(VideoFacts("a", 2, 25.0, 64, 64, "0123"),),
    frame_sampler="all frames",
    resize="none",
    crop="none",
    face_backend="dlib",
    min_face_score=0.15,
)


def make_row(video: str, method: str, psnr: list[float], **scores: list[float]) -> Row:
    values = {name: np.array(value) for name, value in {"psnr": psnr, **scores}.items()}
    reasons = {name: "no face found" for name, value in values.items() if np.isnan(value).any()}
    return Row(video, method, np.arange(len(psnr)), values, reasons)


def gather(*rows: Row, checks: tuple[Check, ...] = ()) -> Results:
    return aggregate(rows, metrics=METRICS, protocol=PROTOCOL, checks=checks)


def test_mean_is_over_videos_not_over_frames():
    results = gather(make_row("a", "generated", [10.0]), make_row("b", "generated", [20.0, 30.0, 40.0]))
    assert results.estimates["generated"]["psnr"].mean == pytest.approx(20.0)
    assert results.num_frames == 4
    assert results.videos == ("a", "b")


def test_order_of_rows_does_not_matter():
    rows = [
        make_row(video, method, [10.0 + index, 12.0, 9.0], landmark_error=[0.1, np.nan, 0.2 + index])
        for index, video in enumerate("abc")
        for method in ("generated", "copy_reference")
    ]
    one, other = gather(*rows), gather(*rows[::-1])
    assert [(row.video, row.method) for row in one.rows] == [(row.video, row.method) for row in other.rows]
    for method, figures in one.estimates.items():
        for name, figure in figures.items():
            assert figure.mean == other.estimates[method][name].mean
            assert figure.interval == other.estimates[method][name].interval


def test_missing_frames_leave_the_mean_and_are_counted():
    row = make_row("a", "generated", [10.0, 20.0, 30.0], landmark_error=[0.1, np.nan, 0.3])
    figure = gather(row).estimates["generated"]["landmark_error"]
    assert figure.mean == pytest.approx(0.2)
    assert (figure.num_present, figure.num_missing) == (2, 1)
    assert figure.reasons == ("a: no face found",)


def test_a_video_without_any_face_is_nan_and_drags_no_mean_to_zero():
    nothing = make_row("b", "generated", [10.0, 10.0], landmark_error=[np.nan, np.nan])
    alone = gather(nothing).estimates["generated"]["landmark_error"]
    assert np.isnan([alone.mean, *alone.interval]).all()
    beside = gather(nothing, make_row("a", "generated", [10.0, 10.0], landmark_error=[0.1, 0.3]))
    assert beside.estimates["generated"]["landmark_error"].mean == pytest.approx(0.2)


def test_a_value_may_not_be_missing_without_a_reason():
    with pytest.raises(ValueError, match="row a/generated: psnr is missing in some frames, and no reason"):
        Row("a", "generated", np.arange(2), {"psnr": np.array([1.0, np.nan])})
    with pytest.raises(ValueError, match="row a/generated: 3 values of psnr for 2 frames"):
        Row("a", "generated", np.arange(2), {"psnr": np.ones(3)})
    with pytest.raises(ValueError, match="unknown method; known are generated"):
        Row("a", "guess", np.arange(1), {})
    with pytest.raises(ValueError, match="row a/generated: unknown figure 'pnsr'; known are psnr, ssim"):
        gather(Row("a", "generated", np.arange(1), {"pnsr": np.ones(1)}))


def test_rows_that_do_not_go_together_are_an_error():
    generated = make_row("a", "generated", [1.0, 2.0])
    with pytest.raises(ValueError, match="no generated clip was graded"):
        gather(make_row("a", "truth", [1.0]))
    with pytest.raises(ValueError, match="graded twice"):
        gather(generated, generated)
    with pytest.raises(ValueError, match="copy_reference was not graded on the same videos and frames"):
        gather(generated, make_row("a", "copy_reference", [1.0]))
    with pytest.raises(ValueError, match="copy_reference was not graded on the same videos and frames"):
        gather(generated, make_row("b", "generated", [1.0]), make_row("a", "copy_reference", [1.0, 2.0]))


def test_interval_over_videos_is_that_of_the_normal_approximation():
    values = np.random.default_rng(0).normal(20, 2, 200)
    low, high = percentile_interval(resample_videos(200, resamples=4000, seed=0).means(values))
    half = 1.96 * values.std() / np.sqrt(200)
    assert (low, high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.03)


def test_the_interval_says_what_it_is_worth():
    assert (
        "says nothing about other videos" in gather(make_row("a", "generated", [1.0, 2.0])).interval_statement
    )
    rows = [make_row(f"{index}", "generated", [1.0]) for index in range(10)]
    assert gather(*rows[:9]).interval_statement.endswith("too narrow, as the videos are few")
    assert gather(*rows).interval_statement.endswith("bootstrap over 10 videos, 2000 resamples")


def test_interval_over_frames_knows_that_neighbours_are_alike():
    slow = np.repeat(np.random.default_rng(0).normal(20, 2, 25), 4)
    as_if_independent = percentile_interval(resample_videos(100, resamples=2000, seed=0).means(slow))
    in_runs = percentile_interval(resample_frames(100, resamples=2000, seed=0).means(slow))
    assert np.diff(in_runs) > 1.4 * np.diff(as_if_independent)


def test_resampled_frames_are_all_equally_likely():
    for num_frames in (2, 7, 30):
        choices = resample_frames(num_frames, resamples=20000, seed=0).choices
        assert choices.shape == (20000, num_frames)
        shares = np.bincount(choices.ravel(), minlength=num_frames) / choices.size * num_frames
        np.testing.assert_allclose(shares, 1, atol=0.05)


def test_a_single_unit_has_no_interval():
    figure = gather(make_row("a", "generated", [10.0])).estimates["generated"]["psnr"]
    assert figure.mean == 10
    assert np.isnan(figure.interval).all()


@pytest.mark.parametrize(
    ("ours", "passed", "text"),
    [
        (24.0, True, "PSNR beats copying the reference frame by 10.00 dB"),
        (22.0, True, "PSNR beats copying the reference frame by 8.00 dB"),
        (16.5, False, "PSNR beats copying the reference frame by only 2.50 dB"),
        (13.0, False, "PSNR is behind copying the reference frame by 1.00 dB"),
    ],
)
def test_verdict_on_a_margin(ours: float, passed: bool, text: str):
    verdict = gather(
        make_row("a", "generated", [ours, ours]),
        make_row("a", "copy_reference", [13.0, 15.0]),
        checks=(Check("psnr", "copy_reference", margin=8.0),),
    ).verdicts[0]
    assert verdict.passed is passed
    assert verdict.text.startswith(text)
    assert verdict.text.endswith("(needs 8 dB)")


def test_verdict_where_lower_is_better_says_on_how_many_frames():
    results = gather(
        make_row("a", "generated", [1.0, 1.0, 1.0], landmark_error=[0.1, np.nan, 0.1]),
        make_row("a", "copy_nearest", [1.0, 1.0, 1.0], landmark_error=[0.2, 0.2, 0.2]),
        checks=(Check("landmark_error", "copy_nearest"),),
    )
    assert results.passed
    assert "beats copying the training frame with the nearest landmarks by 0.100 in 2 of 3 frames" in (
        results.verdicts[0].text
    )


def test_differences_are_paired():
    frames = np.random.default_rng(0).normal(20, 5, 40)
    text = gather(
        make_row("a", "generated", list(frames + 1)),
        make_row("a", "copy_reference", list(frames)),
        checks=(Check("psnr", "copy_reference"),),
    ).verdicts[0].text  # fmt: skip
    assert "interval 1.00 to 1.00" in text, "a constant lead is certain, however much the frames differ"


def test_a_check_is_over_the_videos_that_both_have():
    """The clips without a face were the hard ones: the others are no better than the copy."""
    generated = [make_row(v, "generated", [1.0], landmark_error=[e]) for v, e in (("a", 0.1), ("b", np.nan))]
    copies = [make_row(v, "copy_reference", [1.0], landmark_error=[e]) for v, e in (("a", 0.1), ("b", 0.9))]
    results = gather(*generated, *copies, checks=(Check("landmark_error", "copy_reference"),))
    assert not results.passed
    assert "by 0.000 in 1 of 2 videos" in results.verdicts[0].text


def test_one_value_among_many_videos_has_no_interval():
    rows = [make_row(str(i), "generated", [1.0], landmark_error=[np.nan if i else 0.1]) for i in range(5)]
    assert np.isnan(gather(*rows).estimates["generated"]["landmark_error"].interval).all()


def test_equal_is_not_better_and_missing_is_not_passed():
    checks = (Check("psnr", "copy_reference"), Check("landmark_error", "copy_reference"))
    results = gather(
        make_row("a", "generated", [1.0, 1.0], landmark_error=[np.nan, np.nan]),
        make_row("a", "copy_reference", [1.0, 1.0], landmark_error=[0.1, 0.1]),
        checks=checks,
    )
    assert [verdict.passed for verdict in results.verdicts] == [False, None]
    assert results.verdicts[1].text == (
        "Landmark error: no figure for the generated frames (a: no face found)"
    )
    assert not results.passed
    lenient = tuple(dataclasses.replace(check, required=False) for check in checks)
    assert gather(*results.rows, checks=lenient).passed


def test_checks_name_what_they_do_not_know():
    with pytest.raises(ValueError, match="unknown control 'generated'; known are copy_reference"):
        Check("psnr", "generated")
    with pytest.raises(ValueError, match=r"margin -1\.0 is below 0"):
        Check("psnr", "copy_reference", margin=-1.0)


def test_a_failed_video_is_missing_with_its_reason_for_every_method():
    rows = [
        make_row("a", "generated", [10.0, 20.0]),
        make_row("a", "copy_reference", [5.0, 5.0]),
        Row("b", "generated", np.arange(2), {}, failure="no such file"),
    ]
    results = gather(*rows)
    for method, mean in (("generated", 15.0), ("copy_reference", 5.0)):
        figure = results.estimates[method]["psnr"]
        assert (figure.mean, figure.num_present, figure.num_missing) == (mean, 2, 2)
        assert figure.reasons == ("b: no such file",)
    nothing = gather(rows[2]).estimates["generated"]["psnr"]
    assert np.isnan(nothing.mean)
    assert nothing.reasons == ("b: no such file",)
    with pytest.raises(ValueError, match=r"it failed .* and yet has figures"):
        Row("b", "generated", np.arange(2), {"psnr": np.ones(2)}, failure="no such file")


def test_a_control_that_no_video_has_is_left_out():
    truth = Row("a", "truth", np.arange(1), {}, failure="no true frames are given")
    assert list(gather(make_row("a", "generated", [1.0]), truth).estimates) == ["generated"]


def test_a_figure_of_the_clip_has_one_value_a_video():
    values = {"psnr": np.array([1.0, 2.0]), "sync_c": np.array(4.0)}
    alone = gather(Row("a", "generated", np.arange(2), values)).estimates["generated"]["sync_c"]
    assert (alone.mean, alone.units, alone.num_present) == (4.0, "videos", 1)
    assert np.isnan(alone.interval).all(), "frames are no units of a figure of the clip"
    missing = {"psnr": np.array([1.0, 2.0]), "sync_c": np.array(np.nan)}
    both = gather(
        Row("a", "generated", np.arange(2), values),
        Row("b", "generated", np.arange(2), missing, {"sync_c": "too short"}),
    ).estimates["generated"]["sync_c"]
    assert (both.mean, both.num_present, both.num_missing) == (4.0, 1, 1)
    assert both.reasons == ("b: too short",)


def test_a_figure_of_the_set_has_no_interval():
    sets = {"generated": {"fid": SetFigure(12.5, 2, bias=8.0)}}
    rows = [make_row("a", "generated", [1.0, 2.0])]
    results = aggregate(rows, metrics=METRICS, protocol=PROTOCOL, sets=sets)
    figure = results.estimates["generated"]["fid"]
    assert (figure.mean, figure.units, figure.num_present) == (12.5, "samples", 2)
    assert np.isnan(figure.interval).all()
    said = results_markdown(results, title="t")
    assert "12.5 (of 2 samples; 8.0 by chance)" in said
    assert "only because they are so few" in said
