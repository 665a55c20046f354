"""What the system's README refers to is there."""

import re
from pathlib import Path


def test_the_tests_that_it_names_exist(repository: Path) -> None:
    text = (repository / "portraitgen/systems/aniportrait/README.md").read_text()
    named = set(re.findall(r"`(test_\w+)`", text))
    written = "\n".join(path.read_text() for path in (repository / "tests").rglob("test_*.py"))
    defined = set(re.findall(r"^def (test_\w+)\(", written, flags=re.MULTILINE))
    assert len(named) > 30
    assert named <= defined, named - defined
