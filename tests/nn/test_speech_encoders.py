"""Frozen ears: shapes, times, and that they hear the sound. L9."""

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import Wav2Vec2Config, Wav2Vec2Model

from portraitgen.media.audio import read_audio
from portraitgen.nn.speech_encoders import MelEnergies, VoiceEncoder, Wav2VecLayers

TINY = {
    "hidden_size": 8,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 8,
    "conv_dim": [4] * 7,
    "num_conv_pos_embeddings": 4,
    "num_conv_pos_embedding_groups": 2,
}


def beep(num_frames: int, at: int) -> torch.Tensor:
    """25 frames a second of silence and, during frame `at`, a tone."""
    sound = torch.zeros(1, 640 * num_frames)
    sound[:, 640 * at : 640 * (at + 1)] = 0.3 * torch.sin(torch.arange(640) * 0.2)
    return sound


def test_mel_energies_are_of_their_frame():
    features = MelEnergies(8)(beep(12, 5), 12)
    assert features.shape == (1, 12, 1, 8)
    loudness = features[0, :, 0].sum(-1)
    assert loudness.argmax() == 5
    assert loudness[:4].max() < 0.1 * loudness[5]
    # A frame sounds the same in a longer sound, but for what the windows at its ends hear beyond.
    longer = MelEnergies(8)(torch.cat([torch.zeros(1, 640 * 7), beep(12, 5)], dim=1), 19)
    torch.testing.assert_close(longer[:, 7:], features, atol=1e-4, rtol=0)


def test_all_layers_of_wav2vec(tmp_path):
    Wav2Vec2Model(Wav2Vec2Config(**TINY)).save_pretrained(tmp_path)
    encoder = Wav2VecLayers.from_pretrained(str(tmp_path)).train()
    sound = torch.randn(2, 640 * 12)
    assert (encoder.layers, encoder.width) == (3, 8)
    features = encoder(sound, 12)
    assert features.shape == (2, 12, 3, 8)
    assert not features.requires_grad
    assert not encoder.model.training
    assert not any(each.requires_grad for each in encoder.parameters())
    states = encoder.model.encoder
    last = []
    states.register_forward_hook(lambda _, __, output: last.append(output.last_hidden_state))
    encoder(sound, 12)
    if not states.config.do_stable_layer_norm:
        torch.testing.assert_close(features[:, :, -1], last[0])
    with pytest.raises(ValueError, match=r"speech_encoder\.path: there is no model"):
        Wav2VecLayers.from_pretrained(str(tmp_path / "gone"))


def test_a_real_voice_encoder_knows_voices(shared, tmp_path):
    path = shared / "testdata/models/resemblyzer_voice_encoder.safetensors"
    encoder = VoiceEncoder.from_pretrained(str(path))
    assert not any(each.requires_grad for each in encoder.parameters())

    def voice(name, start):
        samples = torch.from_numpy(read_audio(shared / "testdata/speech" / name))
        heard = samples[None, start * 16_000 : (start + 3) * 16_000]
        features = encoder(heard, 75)
        assert features.shape == (1, 75, 1, 256)
        return features.mean(dim=(0, 1, 2))

    man = [voice("RD_Radio31_000.wav", start) for start in (0, 4)]
    machine = voice("espeak_en.wav", 1)
    alike = torch.cosine_similarity(man[0], man[1], dim=0)
    assert alike > 0.9
    assert max(torch.cosine_similarity(one, machine, dim=0) for one in man) < alike - 0.1
    # As the package has it: a checkpoint, with more in it than the LSTM.
    torch.save({"step": 1, "model_state": load_file(path)}, tmp_path / "pretrained.pt")
    again = VoiceEncoder.from_pretrained(str(tmp_path / "pretrained.pt"))
    sound = torch.randn(1, 640 * 4) * 0.1
    assert torch.equal(again(sound, 4), encoder(sound, 4))


def test_what_is_no_voice_encoder_is_refused(tmp_path):
    torch.save({"weight": torch.zeros(1)}, tmp_path / "other.pt")
    save_file({"weight": torch.zeros(1)}, tmp_path / "other.safetensors")
    (tmp_path / "damaged.safetensors").write_bytes(b"no weights")
    (tmp_path / "damaged.pt").write_bytes(b"no weights")
    with pytest.raises(ValueError, match="no such file"):
        VoiceEncoder.from_pretrained(str(tmp_path / "gone.safetensors"))
    for name in ("other.pt", "other.safetensors", "damaged.safetensors", "damaged.pt"):
        with pytest.raises(ValueError, match=f"{name}: not Resemblyzer's voice encoder"):
            VoiceEncoder.from_pretrained(str(tmp_path / name))
