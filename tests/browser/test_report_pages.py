"""The pages of reports as Chromium shows them: on a desk and on a phone, by day and by night."""

import pytest

from tests.browser.page_probe import faults
from tests.metrics.report.stranger_pages import write_pages

PAGES = ("report", "comparison", "sweep", "history", "trials")
WIDTHS = (1280, 400)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return write_pages(tmp_path_factory.mktemp("pages"))


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", PAGES)
def test_a_page_fits_plays_and_asks_for_nothing(chromium, files, name, width, dark):
    address = files[name]["html"].as_uri()
    with chromium.open(address, width=width, dark=dark) as tab:
        assert tab.run("innerWidth") == width
        assert tab.run("document.querySelectorAll('video').length") == (name != "trials")
        assert faults(tab) == {}
        assert tab.requests == [address]


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_for_everybody(chromium, axe, files, name, width, dark):
    with chromium.open(files[name]["html"].as_uri(), width=width, dark=dark) as tab:
        tab.run("document.querySelectorAll('details').forEach(each => each.open = true)")
        assert axe(tab) == []


def test_the_probe_sees_what_is_wrong(chromium, axe, tmp_path):
    """The tests above can fail: a page that has every fault is found to have it."""
    page = tmp_path / "bad.html"
    page.write_text(
        '<!DOCTYPE html><html><body style="color:#bbb;background:#fff"><p>hardly to be read</p>'
        '<div style="width:3000px">wide</div><div style="overflow-x:auto;width:9px"><b>scrolls</b></div>'
        '<svg width="20" height="20"><text x="9" y="9">cut off</text></svg>'
        '<video src="data:video/mp4;base64,AAAA"></video><img src="https://example.org/x.png">'
        "<script>undefined.wrong</script></body></html>"
    )
    with chromium.open(page.as_uri(), width=400) as tab:
        assert set(faults(tab)) == {
            "makes the page scroll sideways",
            "label cut off",
            "scrolls, and not by keyboard",
            "video does not play",
            "complaint of the browser",
        }
        assert "https://example.org/x.png" in tab.requests
        found = " ".join(axe(tab))
        assert "color-contrast" in found
        assert "image-alt" in found
