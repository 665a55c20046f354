"""A real Ray on two cores: actors that are killed, items that kill them, errors, unusable settings."""

import builtins
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import portraitgen

SCRIPT = """
    import os, signal, sys
    from pathlib import Path
    import portraitgen
    from portraitgen.data.engines.ray import RayEngine

    FOLDER = Path(sys.argv[1])

    def work(job, report, skip):
        for item in job.split():
            if item in skip:
                continue
            report(item, 0)
            if item == "fail":
                raise ValueError("the seventh seal")
            if item == "die" or (item == "once" and not (FOLDER / "once").exists()):
                (FOLDER / "once").touch()
                os.kill(os.getpid(), signal.SIGKILL)
            report(item, 1)
        report(None, 0)
        (FOLDER / "code").write_text(portraitgen.__file__)
        with (FOLDER / "done").open("a") as file:
            print(job, *skip, file=file)

    if __name__ == "__main__":
        # One worker: when it comes to the last job, the others are done.
        engine = RayEngine(workers=1, num_cpus=2, retries=1)
        engine.run(work, ["a once b", "c die", "fail"], progress=lambda done: None)
"""


def test_actors_that_die_are_replaced_and_errors_come_back(tmp_path):
    pytest.importorskip("ray")
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(SCRIPT))
    command = [sys.executable, str(script), str(tmp_path)]
    code = Path(portraitgen.__file__).parents[1]
    environment = {**os.environ, "PYTHONPATH": str(code)}
    result = subprocess.run(
        command, capture_output=True, text=True, timeout=240, cwd=tmp_path, env=environment
    )
    assert (tmp_path / "done").read_text().splitlines() == ["a once b", "c die die"], result.stderr
    assert (tmp_path / "code").read_text() == portraitgen.__file__, "workers run the code of their driver"
    assert result.returncode == 1
    assert result.stderr.rstrip().endswith("ValueError: the seventh seal")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"workers": 0}, "Ray needs at least 1"),
        ({"workers": 1, "address": "auto", "num_cpus": 2}, "engine.num_cpus is for a Ray on this machine"),
        ({"workers": 1, "num_cpus": 1, "cpus_per_worker": 2}, "engine.num_cpus=1 are not enough"),
    ],
)
def test_unusable_settings(settings, message):
    from portraitgen.data.engines.ray import RayEngine

    with pytest.raises(ValueError, match=message):
        RayEngine(**settings)


def test_without_the_extra_the_message_says_what_to_install(monkeypatch):
    from portraitgen.data.engines.ray import RayEngine

    real = builtins.__import__

    def without_ray(name, *arguments):
        if name == "ray":
            raise ModuleNotFoundError(name)
        return real(name, *arguments)

    monkeypatch.setattr(builtins, "__import__", without_ray)
    with pytest.raises(ValueError, match=r"pip install 'portraitgen\[ray\]', or take engine=local"):
        RayEngine(workers=1)
