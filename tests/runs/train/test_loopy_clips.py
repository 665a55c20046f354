"""Clips that Loopy cannot learn from: named, with what to do, before a step is trained. L16."""

from dataclasses import replace

import numpy as np
import pytest

from portraitgen.data.shards import ShardWriter
from portraitgen.media.audio import SAMPLE_RATE, encode_wav
from tests.command_line import run_command
from tests.synthetic import synthetic_clip

SECOND = encode_wav(np.zeros(SAMPLE_RATE, np.float32))


@pytest.mark.parametrize(
    ("num_frames", "audio", "words", "message"),
    [
        (3, SECOND, [], "no sample has 4 valid frames in a row"),
        (25, None, [], "none of 1 samples that pass data.filters has sound"),
        (
            25,
            SECOND,
            ["model.network.motion_latents.num_landmarks=478"],
            "68 landmarks, the network reads 478",
        ),
    ],
)
def test_what_cannot_be_learned_from_is_named(tmp_path, capfd, num_frames, audio, words, message):
    with ShardWriter(tmp_path / "data") as writer:
        writer.write(replace(synthetic_clip("talk", num_frames=num_frames, size=64), audio=audio))
    words = [*words, "stage.init_from=null", "data.train_span=[0.0,1.0]", "data.val_span=[0.0,1.0]"]
    words = ["experiment=loopy/tiny_stage2", "data.shards=data/shards/*.tar", *words]
    assert run_command("train.py", *words, folder=tmp_path) == 1
    assert message in capfd.readouterr().err
