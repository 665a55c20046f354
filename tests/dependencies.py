"""What is installed for portraitgen: licences of all of it, and a lock with hashes.

python -m tests.dependencies licences          a table of every package that it and its extras bring
python -m tests.dependencies lock > FILE       pins with SHA-256 of what the quick start's set-up installs

The lock holds the files that pip chooses on this machine, which its first line names.
"""

import importlib.metadata
import json
import platform
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from packaging.requirements import Requirement

EXTRAS = (
    "deepspeed",
    "s3",
    "gs",
    "slurm",
    "ray",
    "mediapipe",
    "sweep",
    "tensorboard",
    "quickstart",
    "demo",
    "dev",
)


def closure(extras: Sequence[str]) -> dict[str, importlib.metadata.Distribution]:
    """Name → installed package, of all that portraitgen with these extras needs on this machine."""
    found: dict[str, importlib.metadata.Distribution] = {}
    asked: set[tuple[str, tuple[str, ...]]] = set()
    waiting = [("portraitgen", tuple(extras))]
    while waiting:
        name, wanted = waiting.pop()
        if (name, wanted) in asked:
            continue
        asked.add((name, wanted))
        try:
            package = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            continue  # of an extra that is not installed here
        found[plain(name)] = package
        for line in package.requires or ():
            needed = Requirement(line)
            environments = [{"extra": extra} for extra in wanted or ("",)]
            if needed.marker is None or any(needed.marker.evaluate(each) for each in environments):
                waiting.append((needed.name, tuple(sorted(needed.extras))))
    found.pop("portraitgen", None)
    return dict(sorted(found.items()))


def plain(name: str) -> str:
    """A package's name as PEP 503 compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def licence(package: importlib.metadata.Distribution) -> str:
    """What a package says of its licence: an SPDX expression, else its classifiers, else a line of text."""
    said = package.metadata
    classified = [
        line.rpartition(" :: ")[2]
        for line in said.get_all("Classifier", [])
        if line.startswith("License ::") and not line.endswith("OSI Approved")
    ]
    text = next(iter((said.get("License") or "").strip().splitlines()), "")
    return said.get("License-Expression") or ", ".join(classified) or text[:80] or "not stated"


def licences() -> Iterator[str]:
    """A line for each package."""
    packages = closure(EXTRAS)
    width = max(map(len, packages))
    for name, package in packages.items():
        yield f"{name:{width}}  {package.version:18}  {licence(package)}"


def lock() -> Iterator[str]:
    """Lines of a requirements file with hashes; pip looks up the files and installs nothing."""
    machine = f"{platform.system()} {platform.machine()}, Python {platform.python_version()}"
    yield f"# Files for {machine}: python -m tests.dependencies lock"
    yield "# pip install --require-hashes --no-deps -r requirements.lock && pip install --no-deps -e ."
    pins = [
        f"{name}=={package.version.partition('+')[0]}" for name, package in closure(["quickstart"]).items()
    ]
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "report.json")
        options = ["--dry-run", "--ignore-installed", "--no-deps", "--quiet", "--report", str(report)]
        subprocess.run([sys.executable, "-m", "pip", "install", *options, *pins], check=True)
        chosen = json.loads(report.read_text())["install"]
    for each in sorted(chosen, key=lambda each: plain(each["metadata"]["name"])):
        digest = each["download_info"]["archive_info"]["hashes"]["sha256"]
        yield f"{plain(each['metadata']['name'])}=={each['metadata']['version']} --hash=sha256:{digest}"


if __name__ == "__main__":
    made = {"licences": licences, "lock": lock}
    if sys.argv[1:] not in [[name] for name in made]:
        sys.exit(__doc__)
    print("\n".join(made[sys.argv[1]]()))
