"""samples.jsonl of a stranger: the files that it names lie beside it."""

import json

import pytest

from portraitgen.runs.evaluate.sources.samples import read_samples


@pytest.mark.parametrize("kind", ["video", "panel", "sheet"])
@pytest.mark.parametrize("name", ["/etc/passwd", "../secret.png", "a/../../secret.png", "link/secret.png"])
def test_files_outside_the_folder_are_refused(kind, name, tmp_path):
    """They would be embedded in a report that is passed on."""
    folder = tmp_path / "clips"
    folder.mkdir()
    (folder / "link").symlink_to(tmp_path)
    line = {"key": "a", "video": "a.mp4", "panel": "panels/a.mp4", "sheet": "a..png", "fps": "25"}
    line |= {"frames": [0], "train_span": None, "frames_trained_on": 0, "seed": 0, "sampling": {}}
    (folder / "samples.jsonl").write_text(json.dumps(line) + "\n")
    assert read_samples(folder) == [line]
    (folder / "samples.jsonl").write_text(
        f"{json.dumps(line)}\n{json.dumps(line | {'key': 'b', kind: name})}\n"
    )
    with pytest.raises(ValueError, match=rf"samples\.jsonl, line 2, {kind}: {name} does not lie in .*clips"):
        read_samples(folder)
