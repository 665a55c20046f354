"""Words of strangers on report pages and in tables; tests/browser shows the pages to a browser."""

import csv
import io
import re

import pytest
from rich.console import Console

from portraitgen.metrics.comparison import compare
from portraitgen.metrics.report.comparison_tables import comparison_table
from portraitgen.metrics.report.plot import Bar, interval_plot
from portraitgen.metrics.report.tables import figure_table, terminal_table
from portraitgen.metrics.saved import load_results
from tests.metrics.report.html_page import Page
from tests.metrics.report.stranger_pages import LONG, MARKUP, VIDEOS, graded, write_pages


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Report and comparison, each in all its forms."""
    return write_pages(tmp_path_factory.mktemp("pages"))


@pytest.mark.parametrize("name", ["report", "comparison", "history", "trials"])
def test_nothing_of_a_stranger_is_markup(files, name):
    text = files[name]["html"].read_text()
    page = Page(text)
    assert page.all("script") == []
    assert [image["src"][:10] for image in page.all("img")] == ["data:image"] * (name != "trials")
    assert "".join(page.said).count(MARKUP) > 5
    if "markdown" not in files[name]:
        return
    markdown = files[name]["markdown"].read_text()
    assert "<img" not in markdown
    assert "<script" not in markdown
    assert "](x)" not in re.sub(r"\\\]", "", markdown), "no link"


@pytest.mark.parametrize("name", ["report", "comparison", "history", "trials"])
def test_a_page_is_whole_for_the_keyboard_and_for_readers_aloud(files, name):
    page = Page(files[name]["html"].read_text())
    regions = [each for each in page.all("div") if each.get("class") == "scroll"]
    assert regions
    for region in regions:
        assert (region["role"], region["tabindex"]) == ("region", "0")
        assert region["aria-label"]
    assert len(regions) >= len(page.all("table")) > (name in ("report", "comparison"))
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
    for name, kinds in (("report", ("csv", "frames")), ("comparison", ("csv",)), ("history", ("csv",))):
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
    assert said.count("over ") == 3, "the other figures are of all videos"
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
