"""`prepare.py features` through its real configuration, with tiny networks of the published classes."""

from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from torch import nn

from portraitgen.data.catalog import Catalog
from portraitgen.data.features.reader import FeatureReader
from portraitgen.data.sample import ClipTrack, DataError
from portraitgen.data.shards import ShardWriter
from portraitgen.media.audio import decode_wav, encode_wav
from portraitgen.runs.prepare.features.caption import Captions
from portraitgen.runs.train.check_features import check_features
from tests.data.modules import clip_module
from tests.synthetic import synthetic_clip
from tests.tiny_clip import tiny_clip
from tests.tiny_vae import tiny_cogvideox


@pytest.fixture
def root(tmp_path):
    with ShardWriter(tmp_path / "data") as writer:
        for number in range(2):
            writer.write(synthetic_clip(f"clip{number}", num_frames=18, size=64, seed=number))
    return tmp_path / "data"


def batches(root, **settings):
    module = clip_module(
        str(root / "shards" / "*.tar"), clip_frames=5, batch_size=2, samples_per_epoch=6, **settings
    )
    return [module.on_after_batch_transfer(batch, 0) for batch in module.train_dataloader()]


@pytest.fixture(scope="module")
def vae(tmp_path_factory):
    from diffusers.models import AutoencoderKL

    torch.manual_seed(0)
    blocks = {"block_out_channels": (8, 8, 16), "norm_num_groups": 4, "latent_channels": 4}
    model = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3, up_block_types=("UpDecoderBlock2D",) * 3, **blocks
    )
    folder = tmp_path_factory.mktemp("vae")
    model.save_pretrained(folder)
    return folder


def test_latents_are_what_encoding_the_frames_gives(run, root, vae):
    from diffusers.models import AutoencoderKL

    from portraitgen.diffusion.latents import VAECodec

    words = [f"out={root}", "features=[vae]", f"features.vae.model={vae}"]
    messages = run(*words, "features.vae.chunk=7")
    assert messages[-1].endswith(": 2 samples written")
    codec = VAECodec(AutoencoderKL.from_pretrained(vae))
    for batch in batches(root, features=["vae"]):
        assert batch["latents"].shape == (2, 5, 4, 16, 16)
        for latents, pictures in (("latents", "frames"), ("reference_latents", "reference")):
            expected = codec.encode(batch[pictures])
            torch.testing.assert_close(batch[latents], expected, rtol=2e-3, atol=2e-3)
    assert "1 finished before" in run(*words)[0], "another chunk is no other feature"


class Model(nn.Module):
    """A model as far as features are concerned: the frozen parts that would make them."""

    def __init__(self, **parts):
        super().__init__()
        for name, part in parts.items():
            self.add_module(name, part)


def test_a_distribution_is_what_encoding_draws_from(run, root, vae):
    from diffusers.models import AutoencoderKL

    from portraitgen.diffusion.latents import Posterior, VAECodec

    words = [f"out={root}", "features=[vae]", f"features.vae.model={vae}"]
    run(*words)
    run(*words, "features.vae.distribution=true")
    names = sorted(folder.name for folder in (root / "aux").iterdir())
    assert len(names) == 2
    codec = VAECodec(AutoencoderKL.from_pretrained(vae))
    found = [name for name in names if "latent_distribution" in batches(root, features=[name])[0]]
    assert len(found) == 1
    for batch in batches(root, features=found):
        assert batch["latent_distribution"].shape == (2, 5, 2, 4, 16, 16)
        for name, pictures in (("", "frames"), ("reference_", "reference")):
            stored = Posterior.unpacked(batch[f"{name}latent_distribution"])
            expected = codec.posterior(batch[pictures])
            torch.testing.assert_close(stored.mean, expected.mean, rtol=2e-3, atol=2e-3)
            torch.testing.assert_close(stored.std, expected.std, rtol=2e-3, atol=1e-6)


@pytest.mark.parametrize("distribution", [False, True])
def test_latents_of_another_codec_are_refused_before_training(run, root, vae, distribution):
    from diffusers.models import AutoencoderKL

    from portraitgen.diffusion.latents import PixelCodec, VAECodec

    words = ["features=[vae]", f"features.vae.model={vae}", f"features.vae.distribution={distribution}"]
    run(f"out={root}", *words)
    shards = str(root / "shards" / "*.tar")
    model = AutoencoderKL.from_pretrained(vae)
    check_features(Catalog(shards), ["vae"], Model(codec=VAECodec(model)))
    check_features(Catalog(shards), ["vae"], Model(codec=VAECodec(model.to(torch.bfloat16))))
    with pytest.raises(DataError, match=r"they are \[.*4, 16, 16\] and \[.*48, 16, 16\]"):
        check_features(Catalog(shards), ["vae"], Model(codec=PixelCodec(4)))
    torch.manual_seed(1)
    other = VAECodec(AutoencoderKL.from_config(model.config))
    with pytest.raises(DataError, match=r"vae@\w{8} are not what this model's codec makes \(of clip0-0"):
        check_features(Catalog(shards), ["vae"], Model(codec=other))
    check_features(Catalog(shards), ["vae"], Model())


def test_other_weights_are_another_feature(run, root, vae, tmp_path):
    from diffusers.models import AutoencoderKL

    run(f"out={root}", "features=[vae]", f"features.vae.model={vae}")
    model = AutoencoderKL.from_pretrained(vae)
    with torch.no_grad():
        model.quant_conv.weight[0, 0] += 1
    model.save_pretrained(tmp_path / "other")
    run(f"out={root}", "features=[vae]", f"features.vae.model={tmp_path / 'other'}")
    assert len(list((root / "aux").glob("vae@*"))) == 2


def test_clip_embeddings_are_those_of_the_frames(run, root, tmp_path):
    from transformers import CLIPVisionModelWithProjection

    from portraitgen.nn.clip_image import ClipImageEncoder

    clip = tiny_clip(projection_dim=12)
    clip.save_pretrained(tmp_path / "clip")
    run(f"out={root}", "features=[clip]", f"features.clip.model={tmp_path / 'clip'}", "features.clip.chunk=5")
    encoder = ClipImageEncoder.from_pretrained(str(tmp_path / "clip"))
    for batch in batches(root, features=["clip"]):
        expected = encoder(batch["frames"].flatten(0, 1)).unflatten(0, (2, 5))[:, :, 0]
        torch.testing.assert_close(batch["image_embeds"], expected, rtol=2e-3, atol=2e-3)
        expected = encoder(batch["reference"])[:, 0]
        torch.testing.assert_close(batch["reference_image_embeds"], expected, rtol=2e-3, atol=2e-3)
    shards = str(root / "shards" / "*.tar")
    check_features(Catalog(shards), ["clip"], Model(image_encoder=encoder))
    torch.manual_seed(1)
    other = ClipImageEncoder(CLIPVisionModelWithProjection(clip.config))
    with pytest.raises(DataError, match=r"clip@\w{8} are not what this model's image encoder makes"):
        check_features(Catalog(shards), ["clip"], Model(image_encoder=other))


@pytest.fixture(scope="module")
def video_vae(tmp_path_factory):
    folder = tmp_path_factory.mktemp("video_vae")
    tiny_cogvideox().save_pretrained(folder)
    return folder


@pytest.mark.parametrize("distribution", [False, True])
def test_latents_of_windows_are_those_of_the_codec(run, tmp_path, video_vae, distribution):
    from diffusers import AutoencoderKLCogVideoX

    from portraitgen.diffusion.video_latents import CogVideoXCodec

    root = tmp_path / "data"
    valid = np.ones(24, bool)
    valid[14] = False
    with ShardWriter(root) as writer:
        for number, length in enumerate((24, 18, 8)):
            clip = synthetic_clip(f"clip{number}", num_frames=length, size=64, seed=number)
            track = replace(clip.tracks[0], valid=valid[:length])
            writer.write(replace(clip, tracks=(track,)))
    words = {"model": video_vae, "frames": 5, "stride": 2, "every": 4, "distribution": distribution}
    settings = [f"features.video_vae.{name}={value}" for name, value in words.items()]
    messages = run(f"out={root}", "features=[video_vae]", *settings)
    assert messages[-2] == "left out train-000000: clip2-000000000: has no 9 valid frames in a row"

    catalog = Catalog(str(root / "shards" / "*.tar"))
    reader = FeatureReader(catalog, "video_vae")
    assert reader.kind.batch_key == ("latent_distribution" if distribution else "latents")
    assert reader.kind.shape == ((2, 2, 4, 8, 8) if distribution else (2, 4, 8, 8))
    assert [np.flatnonzero(reader.window_starts(0, row)).tolist() for row in range(3)] == [
        [0, 4, 15],
        [0, 4],
        [],
    ]
    codec = CogVideoXCodec(AutoencoderKLCogVideoX.from_pretrained(video_vae))
    check_features(catalog, ["video_vae"], Model(codec=codec))
    other = AutoencoderKLCogVideoX.from_config(codec.vae.config, latent_channels=8)
    with pytest.raises(DataError, match=r"they are \[2, .*4, 8, 8\] and \[2, .*8, 8, 8\]"):
        check_features(catalog, ["video_vae"], Model(codec=CogVideoXCodec(other)))
    reader.check_windows(5, [2])
    with pytest.raises(DataError, match=r"of windows of 5 frames, 2 apart: set data\.examples\.clip_fr"):
        reader.check_windows(5, [1])


def test_windows_of_a_video_that_cannot_be_encoded(run, root, vae, video_vae, tmp_path):
    words = [f"out={root}", "features=[video_vae]"]
    with pytest.raises(
        ValueError, match=r"features\.video_vae\.frames: clips of 48 frames: .* such as 45 or 49"
    ):
        run(*words, f"features.video_vae.model={video_vae}", "features.video_vae.frames=48")
    with pytest.raises(ValueError, match=r"is an AutoencoderKL: give one of AutoencoderKLCogVideoX, Auto"):
        run(*words, f"features.video_vae.model={vae}")
    with pytest.raises(ValueError, match=r"no VAE of diffusers there"):
        run(*words, f"features.video_vae.model={tmp_path}")


@pytest.mark.parametrize("layers", ["all", "last"])
def test_speech_is_that_of_the_whole_clip_at_its_frames(run, tmp_path, layers):
    from transformers import Wav2Vec2Config, Wav2Vec2Model

    from portraitgen.nn.speech import encode_speech, standardise

    torch.manual_seed(0)
    config = Wav2Vec2Config(
        hidden_size=16,
        num_hidden_layers=3,
        num_attention_heads=2,
        intermediate_size=32,
        conv_dim=[8] * 7,
        num_conv_pos_embeddings=16,
        num_conv_pos_embedding_groups=2,
    )
    Wav2Vec2Model(config).save_pretrained(tmp_path / "wav2vec")
    sound = np.random.default_rng(0).normal(0, 0.1, 18 * 640).astype(np.float32)
    root = tmp_path / "data"
    with ShardWriter(root) as writer:
        clip = synthetic_clip("loud", num_frames=18, size=32)
        writer.write(replace(clip, audio=encode_wav(sound)))
        writer.write(synthetic_clip("silent", num_frames=18, size=32))
    words = [f"features.speech.model={tmp_path / 'wav2vec'}", f"features.speech.layers={layers}"]
    messages = run(f"out={root}", "features=[speech]", *words)
    assert messages[-2:] == [
        "left out train-000000: silent-000000000: has no sound",
        f"{next((root / 'aux').iterdir()).name}: 1 sample written",
    ]
    model = Wav2Vec2Model.from_pretrained(tmp_path / "wav2vec").eval()
    samples, _ = decode_wav(encode_wav(sound))
    with torch.no_grad():
        last = encode_speech(model, standardise(torch.from_numpy(samples)[None]), 18)[0]
    (batch, *_) = batches(root, features=["speech"])
    assert set(batch["key"]) == {"loud-000000000"}
    assert batch["speech"].shape == (2, 5, 3 if layers == "all" else 1, 16)
    for frames, states in zip(batch["frame_index"], batch["speech"], strict=True):
        torch.testing.assert_close(states[:, -1], last[frames], rtol=2e-3, atol=2e-3)
    if layers == "all":
        assert not torch.equal(batch["speech"][:, :, 0], batch["speech"][:, :, -1])


def test_identity_is_that_of_each_face(run, tmp_path):
    """A photo of two people twice, turned round the second time: everybody is who they were."""
    from skimage.data import astronaut

    face = astronaut()[:256, 96:352]
    keypoints = np.float32([[111, 99], [145, 99], [130, 122], [115, 141], [143, 141]])
    clip = synthetic_clip("photo", num_frames=1, size=64)
    root = tmp_path / "data"

    def person(left: float) -> ClipTrack:
        points = keypoints + np.float32([left, 0])
        return replace(clip.tracks[0], keypoints=points[None], valid=np.ones(1, bool))

    other = np.clip(face[:, ::-1].astype(int) // 3 + 120, 0, 255).astype(np.uint8)
    with ShardWriter(root) as writer:
        for name, pictures in (("ab", (face, other)), ("ba", (other, face))):
            jpeg = cv2.imencode(".jpg", np.concatenate(pictures, axis=1)[..., ::-1])[1].tobytes()
            tracks = (person(0), person(256))
            sizes = {"width": 512, "height": 256, "video": None, "image": jpeg, "tracks": tracks}
            writer.write(replace(clip, key=f"{name}-000000000", **sizes))
    run(f"out={root}", "features=[identity]")
    catalog = Catalog(str(root / "shards" / "*.tar"))
    reader = FeatureReader(catalog, "identity")
    (a, b), (b_again, a_again) = (reader.values(0, row, slice(None)) for row in range(2))
    assert np.linalg.norm(a) == pytest.approx(1, abs=1e-5)
    assert min(a @ a_again, b @ b_again) > 0.99
    assert a @ b < min(a @ a_again, b @ b_again) - 0.01


def test_captions_by_a_model_of_the_users_choice(run, root, tmp_path):
    from transformers import BertTokenizer, BlipConfig, BlipForConditionalGeneration, BlipProcessor
    from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "man", "talks", "[DEC]"]
    tokenizer = BertTokenizer(vocab={word: number for number, word in enumerate(words)})
    processor = BlipProcessor(BlipImageProcessorPil(size={"height": 32, "width": 32}), tokenizer)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "projection_dim": 16, "num_hidden_layers": 1}
    ids = {"bos_token_id": 8, "sep_token_id": 3, "eos_token_id": 3, "pad_token_id": 0}
    text = {**sizes, **ids, "vocab_size": 9, "encoder_hidden_size": 16, "num_attention_heads": 2}
    vision = {**sizes, "num_attention_heads": 2, "image_size": 32, "patch_size": 8}
    torch.manual_seed(0)
    model = BlipForConditionalGeneration(BlipConfig(text_config=text, vision_config=vision)).eval()
    processor.save_pretrained(tmp_path / "blip")
    model.save_pretrained(tmp_path / "blip")
    settings = [f"features.caption.model={tmp_path / 'blip'}", "features.caption.max_tokens=6"]
    run(f"out={root}", "features=[caption]", *settings)
    for batch in batches(root, features=["caption"]):
        assert len(batch["caption"]) == 2
        assert all(set(caption.split()) <= {*words} for caption in batch["caption"])
        assert all(batch["caption"])


def test_captions_by_a_model_that_is_talked_to(tmp_path):
    """Several frames and a question go in; the answer alone comes out."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import (
        CLIPVisionConfig,
        LlamaConfig,
        LlavaConfig,
        LlavaForConditionalGeneration,
        LlavaProcessor,
        PreTrainedTokenizerFast,
    )
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    words = ["[PAD]", "[UNK]", "<image>", "</s>", "USER", "SAY", "a", "man", "talks", "what", "is", "it"]
    plain = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="[UNK]"))
    plain.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=plain, pad_token="[PAD]", eos_token="</s>", additional_special_tokens=["<image>"]
    )
    pictures = CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    template = (
        "{% for m in messages %}USER {% for c in m['content'] %}{% if c['type'] == 'image' %}<image> "
        "{% else %}{{ c['text'] }} {% endif %}{% endfor %}{% endfor %}SAY "
    )
    settings = {
        "patch_size": 8,
        "vision_feature_select_strategy": "default",
        "num_additional_image_tokens": 1,
    }
    processor = LlavaProcessor(pictures, tokenizer, chat_template=template, **settings)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    torch.manual_seed(0)
    text = LlamaConfig(**sizes, vocab_size=12, bos_token_id=3, eos_token_id=3, pad_token_id=0)
    vision = CLIPVisionConfig(**sizes, image_size=32, patch_size=8)
    config = LlavaConfig(vision_config=vision, text_config=text, image_token_id=2, image_seq_length=16)
    model = LlavaForConditionalGeneration(config)
    with torch.no_grad():  # small random weights would say the same to everything
        for parameter in model.parameters():
            parameter.mul_(20)
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    clip = synthetic_clip("a", num_frames=6, size=64)
    captions = [
        Captions(str(tmp_path), prompt=prompt, frames=frames, max_tokens=5)(clip)
        for prompt, frames in (("what is it", 2), ("what is it", 2), ("a man talks", 2), ("what is it", 1))
    ]
    assert captions[0] == captions[1]
    assert all(0 < len(caption.split()) <= 5 for caption in captions)
    assert not any(caption.startswith("USER what") for caption in captions), "the question is cut off"
    assert len({*captions}) > 1, "frames and question matter"


def test_what_cannot_be_done_is_said_before_the_work(run, root, tmp_path):
    with pytest.raises(ValueError, match=r"name what to compute, such as 'features=\[vae\]'"):
        run(f"out={root}")
    with pytest.raises(
        ValueError, match=r"features\.vae\.model=\S+: no AutoencoderKL there, neither as a folder"
    ):
        run(f"out={root}", "features=[vae]", f"features.vae.model={tmp_path}")
    with pytest.raises(ValueError, match=r"holds no shards"):
        run(f"out={tmp_path / 'none'}", "features=[vae]", f"features.vae.model={tmp_path}")
    assert not (root / "aux").exists()
