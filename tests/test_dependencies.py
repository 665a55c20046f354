"""Every direct dependency is pinned, the lock has a digest for each file, and licences are listed."""

import re
import tomllib

from packaging.requirements import Requirement

from tests.command_line import ROOT
from tests.dependencies import EXTRAS, closure, licences, plain

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def pins(file: str) -> dict[str, str]:
    lines = [line for line in (ROOT / file).read_text().splitlines() if not line.startswith("#")]
    found = [re.fullmatch(r"([\w.-]+)==([^ ]+)(?: --hash=sha256:[0-9a-f]{64})?", line) for line in lines]
    assert None not in found
    return {plain(match[1]): match[2] for match in found if match}


def test_every_direct_dependency_is_pinned():
    """hydra-optuna-sweeper was not."""
    extras = PROJECT["optional-dependencies"]
    assert set(extras) == set(EXTRAS)
    lines = [*PROJECT["dependencies"], *(line for extra in extras.values() for line in extra)]
    direct = {plain(Requirement(line).name) for line in lines}
    assert direct - {"portraitgen"} - pins("constraints.txt").keys() == set()


def test_the_lock_holds_the_pinned_versions_with_digests():
    text = (ROOT / "requirements.lock").read_text()
    assert all("--hash=sha256:" in line for line in text.splitlines() if not line.startswith("#"))
    pinned = pins("constraints.txt")
    for name, version in pins("requirements.lock").items():
        assert pinned.get(name, version) == version.partition("+")[0]
    assert pins("requirements.lock").keys() - pinned.keys() <= {"setuptools", "pip"}


def test_the_lock_holds_all_that_the_quick_start_needs():
    assert closure(["quickstart"]).keys() == pins("requirements.lock").keys()


def test_licences_are_listed():
    lines = [*licences()]
    assert any(re.fullmatch(r"torch +\S+ +\S.*", line) for line in lines)
    assert len(lines) > 80
