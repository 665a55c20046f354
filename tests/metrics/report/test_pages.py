"""Words of strangers on report pages and in tables, and what a browser makes of the pages."""

import csv
import io
import json
import re
import shutil
import subprocess
from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console

from portraitgen.media.encode import write_video
from portraitgen.metrics.checks import Check
from portraitgen.metrics.comparison import compare
from portraitgen.metrics.graders.landmarks import METRICS as LANDMARK_METRICS
from portraitgen.metrics.graders.pixels import METRICS as PIXEL_METRICS
from portraitgen.metrics.protocol import Protocol, VideoFacts
from portraitgen.metrics.report.comparison_tables import comparison_table
from portraitgen.metrics.report.media import Media
from portraitgen.metrics.report.panels import encode_png
from portraitgen.metrics.report.paper_tables import load_table
from portraitgen.metrics.report.plot import Bar, interval_plot
from portraitgen.metrics.report.report import write_comparison, write_report
from portraitgen.metrics.report.tables import figure_table, terminal_table
from portraitgen.metrics.results import aggregate
from portraitgen.metrics.saved import load_results
from portraitgen.metrics.scores import Row
from tests.metrics.report.html_page import Page

MARKUP = '<img src="x"><script>alert(1)</script>'
FORMULA = "=HYPERLINK(1)"
LONG = "/data/" + "WDA_AlexandriaOcasioCortez_000_" * 4
VIDEOS = (FORMULA, f"-{MARKUP}", LONG, "'quoted", "[/b] a | b ](x)")


def graded(name: str, lead: float = 0.0, skipped: str = "no weights"):
    """Results in which every word that comes from outside is unfriendly."""
    rows = []
    generator = np.random.default_rng(0)
    for index, video in enumerate(VIDEOS):
        for method, quality in (("generated", 24 + lead), ("copy_reference", 13.0)):
            error = generator.normal(4e-5, 1e-5, 8)
            missing = method == "generated" and index
            scores = {"psnr": quality + generator.normal(0, 1, 8), "landmark_error": error}
            if missing:
                scores["landmark_error"] = np.full(8, np.nan)
            reasons = {"landmark_error": f"no face {MARKUP}"} if missing else {}
            rows.append(Row(video, method, np.arange(90, 98), scores, reasons))
    protocol = Protocol(
        videos=tuple(VideoFacts(video, 8, 25.0, 64, 48, video) for video in VIDEOS),
        frame_sampler=MARKUP,
        resize="none",
        crop="none",
        face_backend="dlib",
        min_face_score=0.15,
        settings={"weights": LONG, MARKUP: name},
        commit="8edd2b0c" * 5,
        command=f"python evaluate.py generated={LONG}",
        graders={"psnr": {MARKUP: MARKUP}},
        versions={MARKUP: MARKUP},
    )
    return aggregate(
        rows,
        metrics={**PIXEL_METRICS, **LANDMARK_METRICS},
        protocol=protocol,
        skipped={MARKUP: skipped, "sync": f"needs {LONG}"},
        checks=[Check("psnr", "copy_reference", 8.0)],
    )


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Report and comparison, each in all its forms."""
    folder = tmp_path_factory.mktemp("pages")
    images = np.random.default_rng(0).integers(0, 255, (3, 64, 200, 3), dtype=np.uint8)
    write_video(folder / "panel.mp4", images, fps=25)
    (folder / "sheet.png").write_bytes(encode_png(images[0]))
    media = [Media(folder / "panel.mp4", f"{LONG} {MARKUP}"), Media(folder / "sheet.png", MARKUP)]
    given = {"title": f"{MARKUP} {LONG}", "media": media, "media_heading": MARKUP}
    paper = replace(load_table("loopy/hdtf"), title=MARKUP, source=MARKUP)
    report = write_report(graded("a"), folder / "a", papers=[paper], **given)
    write_report(graded("b", -0.6), folder / "b", title="b")
    saved = {MARKUP: load_results(folder / "a"), FORMULA: load_results(folder / "b")}
    # Whoever hands over a results.json can write anything into it.
    stranger = replace(saved[FORMULA], protocol={**saved[FORMULA].protocol, "fingerprint": MARKUP})
    comparison = compare({**saved, FORMULA: stranger}, allow_other_protocols=True)
    return {
        "report": report,
        "comparison": write_comparison(comparison, folder / "c", papers=[paper], **given),
    }


@pytest.mark.parametrize("name", ["report", "comparison"])
def test_nothing_of_a_stranger_is_markup(files, name):
    text = files[name]["html"].read_text()
    page = Page(text)
    assert page.all("script") == []
    assert [image["src"][:10] for image in page.all("img")] == ["data:image"]
    assert "".join(page.said).count(MARKUP) > 8
    markdown = files[name]["markdown"].read_text()
    assert "<img" not in markdown
    assert "<script" not in markdown
    assert "](x)" not in re.sub(r"\\\]", "", markdown), "no link"


@pytest.mark.parametrize("name", ["report", "comparison"])
def test_a_page_is_whole_for_the_keyboard_and_for_readers_aloud(files, name):
    page = Page(files[name]["html"].read_text())
    regions = [each for each in page.all("div") if each.get("class") == "scroll"]
    assert regions
    for region in regions:
        assert (region["role"], region["tabindex"]) == ("region", "0")
        assert region["aria-label"]
    assert len(regions) >= len(page.all("table")) > 1
    heads = re.findall(r"<th[^>]*>(.*?)</th>", files[name]["html"].read_text())
    assert all(heads), "a heading of a table says something"
    assert len(page.all("h1")) == 1


def test_what_was_skipped_stands_once_and_folded(files):
    text = files["report"]["html"].read_text()
    assert text.count(f"needs {LONG}") == 1
    assert '<details class="skipped"><summary>2 skipped: ' in text


def test_an_interval_of_negative_numbers_is_read_as_one(files):
    markdown = files["comparison"]["markdown"].read_text()
    assert re.search(r"\d to \d", markdown)
    assert not re.search(r"\d–-?\d", markdown)


def test_words_are_no_formulas_in_a_spreadsheet(files):
    for name, kinds in (("report", ("csv", "frames")), ("comparison", ("csv",))):
        for kind in kinds:
            lines = list(csv.reader(io.StringIO(files[name][kind].read_text())))
            assert len(lines) > 2
            for cell in (cell for line in lines for cell in line):
                number = re.fullmatch(r"-?\d+(\.\d+)?(e-?\d+)?", cell)
                assert number or not cell.startswith(("=", "+", "-", "@")), cell
    read = load_results(files["report"]["json"])
    assert {row.video for row in read.rows} == set(VIDEOS), "the names come back as they were"


def test_the_terminal_says_over_how_many_videos_and_takes_brackets_as_text(files):
    results = graded("a")
    console = Console(file=io.StringIO(), width=200)
    console.print(terminal_table(*figure_table(results), title="[/b]"))
    saved = load_results(files["report"]["json"])
    header, body = comparison_table(compare({"[/b]": saved, "[red]": saved}))
    console.print(
        terminal_table(header, [[(mean, low) for mean, low, _ in line] for line in body], title="t")
    )
    said = console.file.getvalue()
    assert "over 1 of 5 videos" in said
    assert said.count("over ") == 1, "the other figures are of all videos"
    assert said.count("[/b]") == 2
    assert "[red]" in said


def test_labels_of_an_axis_have_room():
    """Chromium draws a digit of the style sheet's fonts at most 7.5 pixels wide."""
    svg = interval_plot([Bar("a", "run0", -3.85e-5, (-4e-5, -3.6e-5))], title="t", digits=3)
    width = float(re.search(r'viewBox="0 0 (\d+)', svg).group(1))
    labels = [(float(x), text) for x, text in re.findall(r'<text x="([\d.]+)"[^>]*>(.*?)</text>', svg)]
    assert len(labels) > 2
    for x, text in labels:
        assert x - len(text) * 7.5 / 2 >= 0
        assert x + len(text) * 7.5 / 2 <= width


PROBE = """<!DOCTYPE html>
<body style="margin:0"><iframe src="PAGE" style="border:0;width:WIDTHpx;height:900px">
</iframe><script>
onload = () => {
  const frame = document.querySelector("iframe"), page = frame.contentDocument;
  const clipped = [...page.querySelectorAll("svg text")].filter(text => {
    const inner = text.getBoundingClientRect(), outer = text.closest("svg").getBoundingClientRect();
    return inner.left < outer.left - 1 || inner.right > outer.right + 1;
  }).map(text => text.textContent);
  const unreachable = [...page.querySelectorAll("*")].filter(each =>
    each.scrollWidth > each.clientWidth + 1 && frame.contentWindow.getComputedStyle(each).overflowX === "auto"
    && each.tabIndex < 0).length;
  const found = {wide: page.documentElement.scrollWidth, clipped, unreachable,
    played: [...page.querySelectorAll("video")].map(video => video.videoWidth),
    requests: frame.contentWindow.performance.getEntriesByType("resource")
      .map(each => each.name.slice(0, 5)).filter(name => name !== "data:")};
  document.body.innerHTML = "<pre>" + JSON.stringify(found) + "</pre>";
};
</script>"""


@pytest.mark.skipif(shutil.which("chromium") is None, reason="chromium is not installed")
@pytest.mark.parametrize("width", [1280, 400])
@pytest.mark.parametrize("name", ["report", "comparison"])
def test_a_page_in_chromium(files, name, width, tmp_path):
    probe = tmp_path / "probe.html"
    probe.write_text(PROBE.replace("PAGE", files[name]["html"].as_uri()).replace("WIDTH", str(width)))
    command = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
    command += [
        "--allow-file-access-from-files",
        f"--user-data-dir={tmp_path / 'profile'}",
        "--dump-dom",
        probe.as_uri(),
    ]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    found = json.loads(re.search(r"<pre>(.*)</pre>", shown).group(1))
    assert found == {"wide": width, "clipped": [], "unreachable": 0, "played": [200], "requests": []}
