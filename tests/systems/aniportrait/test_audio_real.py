"""Audio2Mesh on eight seconds of a real speaker, prepared with dlib: it learns what the sound says."""

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir

from portraitgen.data.catalog import Catalog
from portraitgen.data.reader import ClipReader
from portraitgen.faces.measure import mouth_closed_frame, mouth_opening
from portraitgen.faces.planar_motion import move_planar
from portraitgen.media.audio import decode_wav
from portraitgen.runs.config.schema import CONF, register_configs
from portraitgen.runs.prepare.prepare import prepare
from portraitgen.runs.system import load_learner
from portraitgen.runs.train.train import train

CONTROLS = 20
PIECE = 3200
"""Samples of a piece of shuffled sound: a fifth of a second."""


@pytest.mark.slow
def test_the_mouth_follows_the_sound_and_not_another(shared, tmp_path, capsys):
    """Correlation of the mouth's opening with the true one, on the three quarters that were trained on.

    On the last quarter, two seconds, so little training tells nothing: the figure is printed, not judged.
    """
    clip = shared / "testdata/clips/WDA_AlexandriaOcasioCortez_000.mp4"
    shards = tmp_path / "data/shards/train-000000.tar"
    settings = [
        *("trainer.max_steps=600", "trainer.log_every_n_steps=100", "trainer.val_check_interval=100"),
        *("data.examples.clip_frames=40", "data.batch_size=4", "data.samples_per_epoch=400"),
        *("optimizer.lr=2e-3", "callbacks.ema.decay=0.99"),
    ]
    register_configs()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        prepare(compose("prepare", [f"source={clip}", f"out={tmp_path / 'data'}", "size=256", "fps=25"]))
        given = ["experiment=aniportrait/tiny_audio2mesh", f"data.shards={shards}", f"paths.runs={tmp_path}"]
        train(compose("train", [*given, *settings]))
    torch.use_deterministic_algorithms(False)
    weights = tmp_path / "aniportrait/tiny_audio2mesh/weights/last.safetensors"
    model, _ = load_learner(weights, changes={}, models="models", device=torch.device("cpu"))

    sample = ClipReader(Catalog(str(shards))).sample(0, 0)
    assert sample.audio is not None
    sound, _ = decode_wav(sample.audio)
    landmarks = sample.tracks[0].landmarks
    true, trained = mouth_opening(landmarks), round(0.75 * len(landmarks))
    reference = torch.from_numpy(landmarks[mouth_closed_frame(landmarks)])

    def follows(heard: np.ndarray) -> tuple[float, float]:
        """Correlation with the true opening, on the part trained on and on the rest."""
        offsets = torch.from_numpy(model.offsets(torch.from_numpy(heard)))[: len(landmarks)]
        moved = move_planar(reference, offsets, torch.zeros(1, 6), scheme="ibug68")
        opening = mouth_opening(moved.numpy())
        first, last = (np.corrcoef(opening[p], true[p])[0, 1] for p in (slice(trained), slice(trained, None)))
        return float(first), float(last)

    random = np.random.default_rng(0)
    pieces = np.split(sound[: len(sound) // PIECE * PIECE], len(sound) // PIECE)
    shuffled = [
        follows(np.concatenate([pieces[i] for i in random.permutation(len(pieces))])) for _ in range(CONTROLS)
    ]
    own, controls = follows(sound), np.array(shuffled)
    with capsys.disabled():
        print(
            f"\nmouth opening against the true one: trained part {own[0]:.2f} (shuffled sound: mean "
            f"{controls[:, 0].mean():.2f}, at most {controls[:, 0].max():.2f}); the rest {own[1]:.2f} "
            f"(shuffled sound: mean {controls[:, 1].mean():.2f}, at most {controls[:, 1].max():.2f})"
        )
    assert own[0] > 0.8
    assert controls[:, 0].max() < 0.6
