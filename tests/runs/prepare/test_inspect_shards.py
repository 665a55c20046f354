import logging
from dataclasses import replace

import cv2
import numpy as np
import pytest
from hydra import compose, initialize_config_dir

from portraitgen.data.shards import ShardWriter
from portraitgen.media.audio import encode_wav
from portraitgen.runs.config.schema import CONF
from portraitgen.runs.prepare.inspect_shards import inspect
from tests.synthetic import synthetic_clip


@pytest.fixture
def out(tmp_path):
    """Two clips in one split, one in another."""
    with ShardWriter(tmp_path) as writer:
        sound = encode_wav(np.zeros(30 * 640, np.float32))
        writer.write(replace(synthetic_clip("one", num_frames=30), audio=sound, scores={"min_face": 20.0}))
        hidden = np.arange(14) != 5
        writer.write(
            replace(synthetic_clip("two", num_frames=14, valid=hidden), scores={"min_face": 40.0, "iqa": 1.0})
        )
        writer.record_error("bad.mp4", stage="decode", error="bad.mp4: cut short")
    with ShardWriter(tmp_path, "val") as writer:
        writer.write(synthetic_clip("three", num_frames=8))
    return tmp_path


@pytest.fixture
def lines(out, caplog):
    def inspected(*words):
        with initialize_config_dir(str(CONF), version_base="1.3"):
            config = compose("prepare_inspect", [f"out={out}", *words])
        caplog.clear()
        with caplog.at_level(logging.INFO):
            inspect(config)
        return caplog.messages

    return inspected


def test_some_shards(lines):
    found = lines("shards=train-*")
    assert found[0].startswith("1 shard, ")
    assert found[0].endswith(": 2 clips of 44 frames (0:00:02), 0 photos")
    assert "  frames     14 to 30 a clip, median 22" in found
    assert "  codec      h264, group of 12" in found
    assert "  landmarks  68 ibug68" in found
    assert "  sources    2 different, such as one, two" in found
    assert [line.split() for line in found if line.startswith(("  iqa", "  min_face"))] == [
        ["iqa", "1", "1", "1", "1", "1", "1"],
        ["min_face", "2", "20", "25", "30", "35", "40"],
    ]
    assert found[-2:] == ["  left out   1:", "    bad.mp4: cut short"]


def test_one_sample(lines, out):
    found = lines("key=two-000000000", f"sheet={out / 'sheet.png'}")
    assert found[0] == f"two-000000000 in {out}/shards/train-000000.tar"
    assert "  picture    14 frames of 64x64 at 25 a second" in found
    assert any("valid frames 0 to 4, 6 to 13; identity not named" in line for line in found)
    assert cv2.imread(str(out / "sheet.png")).std() > 20
    assert "  sound      1.20 s at 16000 Hz" in lines("key=one-000000000")


def test_a_sheet_of_all(lines, out):
    assert lines(f"sheet={out / 'all.png'}")[-1] == f"contact sheet: {out / 'all.png'}"
    lines("key=one-000000000", f"sheet={out / 'one.png'}")
    heights = [cv2.imread(str(out / name)).shape[0] for name in ("all.png", "one.png")]
    assert heights[0] == 3 * heights[1]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["key=tow-000000000"], "none of 3 samples has it; did you mean 'two-000000000'"),
        (["shards=test-*"], "no shard matches"),
        (["out=nowhere"], "out=nowhere holds no shards"),
    ],
)
def test_what_is_not_there(lines, words, message):
    with pytest.raises(ValueError, match=message):
        lines(*words)
