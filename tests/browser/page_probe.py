"""What only a browser knows of a page: what is too wide, cut off, beyond the keyboard, or does not play."""

from tests.browser.chromium import Tab

WIDE = """
[...document.querySelectorAll("body *")]
  .filter(each => document.documentElement.scrollWidth > document.documentElement.clientWidth)
  .filter(each => each.getBoundingClientRect().right > document.documentElement.clientWidth + 1)
  .map(each => each.tagName + "." + each.className)
"""
"""Elements that make the page scroll sideways."""
CUT_OFF = """
[...document.querySelectorAll("svg text")].filter(text => {
  const inner = text.getBoundingClientRect(), outer = text.closest("svg").getBoundingClientRect();
  return inner.left < outer.left - 1 || inner.right > outer.right + 1
    || inner.top < outer.top - 1 || inner.bottom > outer.bottom + 1;
}).map(text => text.textContent)
"""
"""Labels of plots that reach beyond them."""
UNREACHABLE = """
[...document.querySelectorAll("*")].filter(each =>
  each.scrollWidth > each.clientWidth + 1 && getComputedStyle(each).overflowX === "auto" && each.tabIndex < 0
).map(each => each.tagName + "." + each.className)
"""
"""What scrolls and has no place in the order of the keyboard."""
STILL = """
Promise.all([...document.querySelectorAll("video")].map(async video => {
  video.scrollIntoView();
  await Promise.race([video.play().catch(() => 0), new Promise(done => setTimeout(done, 5000))]);
  for (let i = 0; i < 100 && !video.currentTime; i++) await new Promise(done => setTimeout(done, 50));
  return video.currentTime > 0 && video.videoWidth > 0 ? null : video.getAttribute("aria-label") || "video";
})).then(all => all.filter(Boolean))
"""
"""Videos that do not play."""


def faults(tab: Tab) -> dict[str, list[str]]:
    """What is wrong with the page, by kind; empty for a good one."""
    found = {
        "makes the page scroll sideways": tab.run(WIDE),
        "label cut off": tab.run(CUT_OFF),
        "scrolls, and not by keyboard": tab.run(UNREACHABLE),
        "video does not play": tab.run(STILL),
        "complaint of the browser": tab.complaints,
    }
    return {kind: each for kind, each in found.items() if each}
