"""Runs side by side: paired differences, refused protocols, and what the report says of both."""

import csv
import io
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from portraitgen.metrics.comparison import compare, label_runs
from portraitgen.metrics.grader import SetFigure
from portraitgen.metrics.graders.pixels import METRICS
from portraitgen.metrics.protocol import Protocol, VideoFacts
from portraitgen.metrics.report.comparison_tables import comparison_notes, comparison_table
from portraitgen.metrics.report.ranking import best_and_worst, most_different
from portraitgen.metrics.report.report import write_comparison, write_report
from portraitgen.metrics.results import aggregate
from portraitgen.metrics.saved import SavedResults, load_results, protocol_json
from portraitgen.metrics.scores import MetricInfo, Row

VIDEOS = [f"v{index}" for index in range(12)]
PROTOCOL = Protocol((), "all frames", "none", "none", "dlib", 0.0)


@pytest.fixture
def run(tmp_path):
    """Writes and reads back results of videos whose difficulty all runs share."""
    difficulty = np.random.default_rng(0).normal(20, 5, len(VIDEOS))

    def run(name, lead=0.0, *, videos=VIDEOS, metrics=METRICS, backend="dlib", **settings):
        rows = [
            Row(video, "generated", np.arange(2), {"psnr": np.full(2, difficulty[int(video[1:])] + lead)})
            for video in videos
        ]
        protocol = Protocol(
            videos=tuple(VideoFacts(video, 2, 25.0, 8, 8, video) for video in videos),
            frame_sampler="all frames",
            resize="none",
            crop="none",
            face_backend=backend,
            min_face_score=0.0,
            settings=settings,
            source={"generated": f"/clips/{name}"},
        )
        write_report(aggregate(rows, metrics=metrics, protocol=protocol), tmp_path / name, title=name)
        return load_results(tmp_path / name)

    return run


def test_a_small_lead_on_all_videos_is_certain(run):
    comparison = compare({"old": run("a"), "new": run("b", 0.5), "same": run("c"), "bad": run("d", -1)})
    interval = comparison.estimates["new"]["psnr"].interval
    assert interval[1] - interval[0] > 3, "the videos themselves differ widely"
    new, same, bad = (comparison.differences[label]["psnr"] for label in ("new", "same", "bad"))
    assert new.mean == pytest.approx(0.5)
    assert new.interval == pytest.approx((0.5, 0.5))
    assert new.num_units == 12
    assert (new.verdict, same.verdict, bad.verdict) == ("better", "open", "worse")
    assert "old" not in comparison.differences


def in_memory(name, values, *, metrics=None):
    """Results of videos v0, v1, … with figure -> a value each; a video without any has failed."""
    metrics = metrics or dict.fromkeys(values, METRICS["psnr"])
    rows = []
    for index, scores in enumerate(zip(*values.values(), strict=True)):
        present = {figure: np.array([score]) for figure, score in zip(values, scores, strict=True)}
        failed = np.isnan(scores).all()
        rows.append(
            Row(f"v{index}", "generated", np.arange(1), {}, failure="damaged")
            if failed
            else Row(f"v{index}", "generated", np.arange(1), present, dict.fromkeys(values, "no face"))
        )
    protocol = protocol_json(aggregate(rows, metrics=metrics, protocol=PROTOCOL, resamples=2))
    return SavedResults(Path(name), tuple(rows), metrics, {}, protocol)


def test_failing_on_hard_videos_is_not_better():
    """Each run over its own videos would be 6.67 apart; on the two that both have they are equal."""
    nan = float("nan")
    old = in_memory("a", {"psnr": [30, 30, 20, 20, 21, 19]})
    new = in_memory("b", {"psnr": [30, 30, nan, nan, nan, nan]})
    comparison = compare({"old": old, "new": new})
    difference = comparison.differences["new"]["psnr"]
    assert (difference.mean, difference.num_units, difference.verdict) == (0, 2, "too few videos")
    failed = comparison.differences["new"]["failed"]
    assert comparison.estimates["new"]["failed"].mean == pytest.approx(4 / 6)
    assert (failed.mean, failed.num_units) == (pytest.approx(4 / 6), 6)
    _, body = comparison_table(comparison)
    assert body[0][0][0] == "Failed ↓"
    (mean, bounds, said) = body[1][2]
    assert mean == "30.00"
    assert "over 2 of 6 videos" in bounds
    assert said == "+0.00 too few videos, 2 videos"
    assert most_different(comparison, by=None, count=1)[0] == "psnr"


def test_runs_without_a_common_video_have_no_difference():
    nan = float("nan")
    old = in_memory("a", {"psnr": [30, 30, 30, nan, nan, nan]})
    new = in_memory("b", {"psnr": [nan, nan, nan, 20, 20, 20]})
    comparison = compare({"old": old, "new": new})
    difference = comparison.differences["new"]["psnr"]
    assert np.isnan([difference.mean, *difference.interval]).all()
    assert (difference.num_units, difference.verdict) == (0, None)
    assert comparison_table(comparison)[1][1][2][2] == "none of the videos has it in both"


@pytest.mark.parametrize("num_videos", [2, 4, 6, 10, 20, 50])
def test_equal_methods_are_rarely_called_better_or_worse(num_videos):
    """At most 6 % of comparisons of equal runs find anything, however few the videos and many the figures."""
    generator = np.random.default_rng(num_videos)
    figures, times, found = [f"f{index}" for index in range(4)], 100, 0
    for _ in range(times):
        hardness = generator.normal(20, 5, num_videos)
        runs = {}
        for label in ("old", "new"):
            noise = generator.exponential(1, (len(figures), num_videos))
            runs[label] = in_memory(label, dict(zip(figures, hardness + noise, strict=True)))
        verdicts = [each.verdict for each in compare(runs, resamples=2).differences["new"].values()]
        found += any(verdict in ("better", "worse") for verdict in verdicts)
        if num_videos < 6:
            assert set(verdicts) == {"too few videos"}
    assert found / times <= 0.06


def test_a_true_lead_is_found_among_many_figures():
    generator = np.random.default_rng(0)
    old = {f"f{index}": generator.normal(20, 5, 12) for index in range(15)}
    new = {name: values + generator.normal(0, 0.1, 12) for name, values in old.items()}
    new["f3"] = old["f3"] + generator.normal(0.5, 0.1, 12)
    differences = compare({"old": in_memory("a", old), "new": in_memory("b", new)}).differences["new"]
    verdicts = {name: each.verdict for name, each in differences.items()}
    assert verdicts.pop("f3") == "better"
    assert set(verdicts.values()) == {"open"}


def test_lower_is_better_where_it_is(run):
    error = {"psnr": METRICS["psnr"].__class__("Error", "", 2, False, "how wrong")}
    comparison = compare({"old": run("a", metrics=error), "new": run("b", 0.5, metrics=error)})
    assert comparison.differences["new"]["psnr"].verdict == "worse"


def test_a_single_video_is_resampled_by_its_frames(run):
    comparison = compare({"old": run("a", videos=["v0"]), "new": run("b", 1.0, videos=["v0"])})
    difference = comparison.differences["new"]["psnr"]
    assert difference.interval == pytest.approx((1, 1))
    assert difference.verdict == "too few videos"
    assert "says nothing about other videos" in comparison.interval_statement


def test_other_protocols_are_refused_and_all_differences_listed(run):
    runs = {"old": run("a"), "new": run("b", backend="insightface", videos=VIDEOS[:3])}
    with pytest.raises(ValueError, match="different protocols") as error:
        compare(runs)
    assert "old | new\n    videos.v3.num_frames: 2 | (absent)" in str(error.value)
    assert "allow_other_protocols=true" in str(error.value)
    allowed = compare(runs, allow_other_protocols=True)
    assert "face_backend: dlib | insightface" in allowed.clashes["new"]
    assert allowed.videos == tuple(VIDEOS[:3])


def test_an_allowed_difference_is_said_loudly(run, tmp_path):
    runs = {"old": run("a"), "<b>new</b>": run("b", backend="insightface")}
    paths = write_comparison(compare(runs, allow_other_protocols=True), tmp_path / "out", title="A < B")
    page = paths["html"].read_text()
    assert 'role="alert"' in page
    assert "face_backend: dlib | insightface" in page
    assert "<b>new</b></th>" not in page, "a label is text"
    assert "taken by different protocols. Their figures do not compare" in paths["markdown"].read_text()
    assert json.loads(paths["json"].read_text())["protocols_differ"]
    same = write_comparison(compare({"old": run("a"), "new": run("c")}), tmp_path / "same", title="t")
    assert "alert" not in same["html"].read_text()


def test_all_forms_of_the_report_tell_the_same(run, tmp_path):
    comparison = compare({"old": run("a", step=1), "new": run("b", 0.5, step=2)})
    paths = write_comparison(comparison, tmp_path / "out", title="t")
    written = json.loads(paths["json"].read_text())
    assert written["differences"]["new"]["psnr"]["mean"] == pytest.approx(0.5)
    assert written["runs"]["new"]["settings"] == {"step": 2}
    row = next(csv.DictReader(io.StringIO(paths["csv"].read_text().split("\n", 2)[0] + "\n" + "\n".join(
        line for line in paths["csv"].read_text().splitlines() if line.startswith("new")))))  # fmt: skip
    assert float(row["difference"]) == pytest.approx(0.5)
    assert row["verdict"] == "better"
    page = paths["html"].read_text()
    for text in (page, paths["markdown"].read_text()):
        assert "+0.50 [0.50, 0.50] better" in text
    assert not re.search(r"(?:https?:)?//[a-z0-9]", page), "needs no network"
    assert page.count('class="intervals"') == 1
    assert ">step</th><td>1</td><td>2</td>" in page


def test_nothing_in_common_is_an_error(run):
    with pytest.raises(ValueError, match="needs two results at least, got a"):
        compare({"a": run("a")})
    with pytest.raises(ValueError, match="no video in common"):
        compare({"a": run("a", videos=["v0"]), "b": run("b", videos=["v1"])}, allow_other_protocols=True)
    other = {"ssim": METRICS["ssim"]}
    rows = [Row("v0", "generated", np.arange(2), {"ssim": np.ones(2)})]
    protocol = Protocol((VideoFacts("v0", 2, 25.0, 8, 8, "v0"),), "all frames", "none", "none", "dlib", 0.0)
    one = run("c", videos=["v0"], metrics={"psnr": METRICS["psnr"]})
    folder = one.path.parent.parent / "d"
    write_report(aggregate(rows, metrics=other, protocol=protocol), folder, title="d")
    with pytest.raises(ValueError, match="no figure in common"):
        compare({"a": one, "b": load_results(folder)})


def test_figures_of_sets_alone_still_show_videos(run):
    fid = {"fid": MetricInfo("FID", "", 2, False, "Fréchet distance", "set")}
    runs = {label: replace(run(label), metrics=fid, sets={"fid": SetFigure(9.0, 100)}) for label in "ab"}
    comparison = compare(runs)
    assert most_different(comparison, by=None, count=2) == (None, VIDEOS[:1] + ["v1"])
    with pytest.raises(ValueError, match="show_by=fid: no video has such a figure; known are none"):
        most_different(comparison, by="fid", count=2)
    facts = tuple(VideoFacts(video, 2, 25.0, 8, 8, video) for video in "xy")
    protocol = Protocol(facts, "all frames", "none", "none", "dlib", 0.0)
    rows = [Row(video, "generated", np.arange(2), {}) for video in "xy"]
    results = aggregate(rows, metrics=fid, protocol=protocol)
    assert best_and_worst(results, by=None, count=1) == (None, [("x", "x")])


def test_sets_of_different_sizes_are_not_held_against_each_other(run):
    """A Fréchet distance of 80 faces is larger than one of 100 only because they are fewer."""
    fid = {"fid": MetricInfo("FID", "", 2, False, "Fréchet distance", "set")}
    one, other = run("a"), run("b")
    runs = {
        label: replace(saved, metrics=METRICS | fid, sets={"fid": SetFigure(value, size)})
        for label, saved, value, size in (("old", one, 9.0, 100), ("new", other, 12.0, 80))
    }
    comparison = compare(runs)
    assert np.isnan(comparison.differences["new"]["fid"].mean)
    assert any("100 in old, 80 in new" in note for note in comparison_notes(comparison))
    alike = compare({**runs, "new": replace(runs["new"], sets={"fid": SetFigure(12.0, 100)})})
    assert alike.differences["new"]["fid"].mean == 3
    assert not any("different sizes" in note for note in comparison_notes(alike))


def test_labels_say_what_differs_and_no_more(run):
    same = {"weights": "runs/x/weights/step_3.safetensors", "step": 3, "seed": 0}
    other = {**same, "weights": "runs/x/weights/step_9.safetensors", "step": 9}
    assert list(label_runs([run("a", **same), run("b", **other)])) == ["step_3", "step_9"]
    seeds = [run("a", **same), run("b", **other), run("c", **{**other, "seed": 1})]
    assert list(label_runs(seeds)) == ["step_3, seed 0", "step_9, seed 0", "step_9, seed 1"]
    assert list(label_runs([run("a"), run("b")])) == ["a", "b"]
    twice = run("a")
    assert list(label_runs([twice, twice])) == ["run (1)", "run (2)"]


def test_the_best_and_the_worst_videos_are_chosen(run):
    rows = [Row(f"v{value}", "generated", np.arange(1), {"psnr": np.array([value])}) for value in range(5)]
    protocol = Protocol((), "all frames", "none", "none", "dlib", 0.0)
    results = aggregate(rows, metrics=METRICS, protocol=protocol)
    name, shown = best_and_worst(results, by=None, count=3)
    assert name == "psnr"
    assert shown == [
        ("v4", "best 1: PSNR 4.00 dB"),
        ("v3", "best 2: PSNR 3.00 dB"),
        ("v0", "worst 1: PSNR 0.00 dB"),
    ]
    assert [video for video, _ in best_and_worst(results, by="psnr", count=9)[1]] == [
        "v4",
        "v3",
        "v2",
        "v1",
        "v0",
    ]
    with pytest.raises(ValueError, match="show_by=fid: no video has such a figure; known are psnr, ssim"):
        best_and_worst(results, by="fid", count=3)
    comparison = compare({"old": run("a"), "new": run("b")})
    assert most_different(comparison, by=None, count=2) == ("psnr", ["v0", "v1"])
