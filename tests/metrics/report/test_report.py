"""What is written: files for programs, a table, and the page, checked as a browser would read it."""

import csv
import io
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from portraitgen.media.encode import write_video
from portraitgen.metrics.checks import Check
from portraitgen.metrics.graders.landmarks import METRICS as LANDMARK_METRICS
from portraitgen.metrics.graders.mouth import METRICS as MOUTH_METRICS
from portraitgen.metrics.graders.pixels import METRICS as PIXEL_METRICS
from portraitgen.metrics.protocol import Protocol, VideoFacts
from portraitgen.metrics.report.media import Media
from portraitgen.metrics.report.panels import encode_png
from portraitgen.metrics.report.plot import Line, line_plot
from portraitgen.metrics.report.report import write_report
from portraitgen.metrics.report.tables import figure_table, graded, terminal_table
from portraitgen.metrics.results import Results, aggregate
from portraitgen.metrics.scores import Row
from tests.metrics.report.html_page import Page

METRICS = {**PIXEL_METRICS, **LANDMARK_METRICS, "mouth_opening": MOUTH_METRICS["mouth_opening"]}
VIDEO = "<b>clip</b> & co"


@pytest.fixture
def results() -> Results:
    """Two methods on one video with an unfriendly name; a face is missing in the second generated frame."""
    frames = np.arange(90, 94)
    scores = {
        "generated": {"psnr": [24.0, 25.0, 23.0, 24.0], "landmark_error": [0.04, np.nan, 0.05, 0.06]},
        "copy_reference": {"psnr": [13.0, 13.5, 14.0, 13.5], "landmark_error": [0.3, 0.3, 0.31, 0.29]},
        "truth": {"landmark_error": [0.01, 0.01, 0.02, 0.01]},
    }
    rows = []
    for method, figures in scores.items():
        values = {name: np.array(figure) for name, figure in figures.items()}
        values["mouth_opening"] = np.array([0.1, 0.2, 0.3, 0.1])
        values["detection_rate"] = np.isfinite(values["landmark_error"]).astype(float)
        reasons = {"landmark_error": "no face found in 1 of 4 frames"} if method == "generated" else {}
        rows.append(Row(VIDEO, method, frames, values, reasons))
    protocol = Protocol(
        videos=(VideoFacts(VIDEO, 4, 29.97, 64, 48, "0123"),),
        frame_sampler="all frames",
        resize="none",
        crop="none",
        face_backend="dlib",
        min_face_score=0.15,
        settings={"steps": 20},
        commit="abc1234",
        versions={"torch": "2.13"},
        command="python evaluate.py generated=clips",
    )
    return aggregate(
        rows,
        metrics=METRICS,
        protocol=protocol,
        skipped={"sync": "metrics.graders.sync.weights is not set"},
        checks=[Check("psnr", "copy_reference", 8.0), Check("sync_c", "copy_reference", required=False)],
    )


def test_json_has_the_named_figures_and_the_protocol(results, tmp_path):
    paths = write_report(results, tmp_path / "new", title="A test")
    written = json.loads(paths["json"].read_text())
    assert written["psnr"] == pytest.approx(24.0)
    assert written["psnr.copy_reference"] == pytest.approx(13.5)
    assert written["landmark_error"] == pytest.approx(0.05)
    assert written["landmark_error.copy_reference"] == pytest.approx(0.3)
    assert written["landmark_error.truth"] == pytest.approx(0.0125)
    assert written["detection_rate"] == pytest.approx(0.75)
    assert written["missing"] == {
        "landmark_error": {"frames": 1, "of": 4, "reasons": [f"{VIDEO}: no face found in 1 of 4 frames"]}
    }
    assert written["passed"] is True
    assert written["skipped"] == {"sync": "metrics.graders.sync.weights is not set"}
    assert written["checks"][1]["text"] == "sync_c: skipped, no grader took it"
    assert written["checks"][0]["text"].startswith("PSNR beats copying the reference frame by 10.50 dB")
    protocol = written["protocol"]
    assert (protocol["num_videos"], protocol["num_frames"], protocol["fps"]) == (1, 4, 29.97)
    assert (protocol["resolution"], protocol["face_backend"], protocol["commit"]) == (
        [64, 48],
        "dlib",
        "abc1234",
    )
    assert "runs of 2" in protocol["intervals"]
    assert set(protocol["metrics"]) == METRICS.keys()
    assert protocol["metrics"]["psnr"]["higher_is_better"] is True
    assert protocol["missing_faces"] == {"generated": 1, "copy_reference": 0, "truth": 0}
    assert protocol["command"] == "python evaluate.py generated=clips"
    assert len(protocol["fingerprint"]) == 16


def test_a_missing_figure_is_null_with_its_reason(tmp_path):
    frames = np.arange(3)
    row = Row("a", "generated", frames, {"landmark_error": np.full(3, np.nan)}, {"landmark_error": "no face"})
    protocol = Protocol(
        videos=(),
        frame_sampler="all frames",
        resize="none",
        crop="none",
        face_backend="dlib",
        min_face_score=0,
    )
    paths = write_report(
        aggregate([row], metrics=METRICS, protocol=protocol), tmp_path, title="Nothing found"
    )
    written = json.loads(paths["json"].read_text())
    assert written["landmark_error"] is None
    assert written["intervals"]["landmark_error"] == [None, None]
    assert written["missing"]["landmark_error"]["reasons"] == ["a: no face"]
    assert "Mean over 0 of 3 frames: Landmark error (Generated). a: no face." in paths["html"].read_text()


def test_csv_leaves_missing_cells_empty_and_says_why(results, tmp_path):
    paths = write_report(results, tmp_path, title="A test")
    rows = list(csv.DictReader(io.StringIO(paths["csv"].read_text())))
    assert [row["method"] for row in rows] == ["generated", "copy_reference", "truth"]
    assert rows[0]["video"] == VIDEO
    assert rows[0]["missing"] == "no face found in 1 of 4 frames"
    assert rows[2]["psnr"] == ""
    frames = list(csv.DictReader(io.StringIO(paths["frames"].read_text())))
    assert len(frames) == 12
    assert (frames[1]["frame"], frames[1]["psnr"], frames[1]["landmark_error"]) == ("91", "25.0", "")


def test_tables_for_people_show_the_same_figures(results, tmp_path):
    markdown = write_report(results, tmp_path, title="A test")["markdown"].read_text()
    console = Console(file=io.StringIO(), width=80)
    console.print(terminal_table(*figure_table(results), title="A test"))
    terminal = console.file.getvalue()
    for text in (markdown, terminal):
        for shown in ("24.00", "13.50", "0.050", "0.75"):
            assert shown in text
    assert "- passed: PSNR beats copying the reference frame by 10.50 dB" in markdown
    assert "Mean over 3 of 4 frames: Landmark error (Generated)" in markdown
    assert "Skipped: sync. metrics.graders.sync.weights is not set." in markdown
    assert "…" not in terminal, "cut off at 80 columns"


def test_where_no_clip_can_be_read_no_size_is_stated(results):
    """It said "of 0 sizes"."""
    unread = replace(results.protocol, videos=(VideoFacts(VIDEO, None, None, None, None, None),))
    assert graded(replace(results, protocol=unread)).startswith("1 video, 4 frames, faces by dlib")
    assert graded(results).startswith("1 video, 4 frames of 64×48 pixels at 29.97 fps, faces by dlib")


def test_page_is_whole_and_needs_no_network(results, tmp_path):
    images = np.random.default_rng(0).integers(0, 255, (3, 32, 48, 3), dtype=np.uint8)
    write_video(tmp_path / "panel.mp4", images, fps=25)
    (tmp_path / "sheet.png").write_bytes(encode_png(images[0]))
    media = [Media(tmp_path / "panel.mp4", 'A "panel"'), Media(tmp_path / "sheet.png", "A sheet")]
    text = write_report(results, tmp_path, title="5 < 6", media=media)["html"].read_text()

    page = Page(text)
    assert not re.search(r"(?:https?:)?//[a-z0-9]", re.sub(r'"data:[^"]*"', "", text))
    assert page.all("script") == page.all("link") == []
    assert "default-src 'none'" in page.all("meta")[2]["content"]
    assert page.all("html") == [{"lang": "en"}]
    assert page.all("video")[0]["src"].startswith("data:video/mp4;base64,")
    assert page.all("video")[0]["aria-label"] == 'A "panel"'
    assert "controls" in page.all("video")[0]
    assert page.all("img")[0]["src"].startswith("data:image/png;base64,")
    assert page.all("img")[0]["alt"] == "A sheet"
    plots = [svg for svg in page.all("svg") if svg.get("role") == "img"]
    assert [plot["aria-label"].split(",")[0] for plot in plots] == [
        "PSNR (dB) ↑",
        "Landmark error ↓",
        "Mouth opening",
    ]
    assert page.all("b") == [], "the name of a video is text, not markup"
    said = " ".join(page.said)
    for expected in ("5 < 6", f"PSNR (dB) ↑, {VIDEO}", "24.00", "commit abc1234", "passed", "steps"):
        assert expected in said


def test_points_of_a_plot_say_their_values_and_gaps_stay_open():
    values = np.array([1.0, np.nan, 3.0, 4.0])
    lines = [Line("Ours", "generated", values)]
    svg = line_plot([10, 11, 12, 13], lines, title="t", x_label="frame", y_label="dB", digits=1)
    assert re.findall(r"<title>(.*?)</title>", svg) == [
        "Ours, frame 10: 1.0",
        "Ours, frame 12: 3.0",
        "Ours, frame 13: 4.0",
    ]
    path = re.search(r'<path d="(.*?)"', svg).group(1)
    assert re.sub(r"[\d. ]", "", path) == "MML", "a gap lifts the pen"
    assert svg.count('class="lone"') == 1
    heights = [float(y) for y in re.findall(r'cy="([\d.]+)"', svg)]
    assert heights[0] > heights[1] > heights[2], "larger values stand higher"


@pytest.mark.parametrize("value", [0.0, 7.0, np.nan])
def test_a_flat_or_empty_line_is_drawn_too(value):
    svg = line_plot([5], [Line("a", "b", np.array([value]))], title="", x_label="", y_label="", digits=0)
    assert "nan" not in svg


def test_nothing_is_left_half_written(results, tmp_path):
    with pytest.raises(ValueError, match=r"the report cannot embed .*gone\.mp4: No such file"):
        write_report(results, tmp_path, title="t", media=[Media(tmp_path / "gone.mp4", "gone")])
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=r"cannot be written into .*file: .*choose another folder"):
        write_report(results, tmp_path / "file", title="t")
    write_report(results, tmp_path, title="first")
    write_report(results, tmp_path, title="second")
    names = {"file", "results.json", "results.csv", "frames.csv", "results.md", "report.html"}
    assert {path.name for path in tmp_path.iterdir()} == names
    assert "second" in (tmp_path / "report.html").read_text()


def test_media_of_another_kind_are_an_error():
    with pytest.raises(ValueError, match=r"clip\.avi: a report shows \.mp4, \.png, \.jpg files"):
        Media(Path("clip.avi"), "no")
