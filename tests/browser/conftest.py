"""What tests of pages share: a browser, axe-core, and what every page of ours has to be."""

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.browser.chromium import Chromium, Tab

AXE = Path("build/axe/node_modules/axe-core/axe.min.js")
"""Where `make test-browser` puts it; MPL-2.0, so it is installed beside the repository and no part of it."""


@pytest.fixture(scope="session")
def chromium(tmp_path_factory) -> Iterator[Chromium]:
    """Debian's chromium; skips where it is not installed."""
    program = shutil.which("chromium")
    if program is None:
        pytest.skip("chromium is not installed (Debian: apt-get install chromium)")
    with Chromium(program, tmp_path_factory.mktemp("chromium")) as browser:
        yield browser


@pytest.fixture(scope="session")
def axe(repository):
    """Accessibility by axe-core: the findings of a tab that are serious or worse, one line each."""
    path = Path(os.environ.get("AXE_CORE", repository / AXE))
    if not path.is_file():
        pytest.skip("axe-core is not installed: make test-browser, or AXE_CORE=…/axe.min.js")
    source = path.read_text()

    def findings(tab: Tab) -> list[str]:
        tab.run(source)
        found = tab.run("axe.run().then(result => result.violations)")
        return [
            f"{each['id']} ({each['impact']}): {json.dumps(node['target'])} {node['html'][:200]}"
            for each in found
            if each["impact"] in ("serious", "critical")
            for node in each["nodes"]
        ]

    return findings
