"""CLIP, T5 and UMT5 as the stock pipelines of diffusers encode prompts, from folders of this machine."""

import logging
import pickle
import shutil

import pytest
import torch

from portraitgen.nn.text.clip import CLIPText
from portraitgen.nn.text.pair import TextPair
from portraitgen.nn.text.t5 import T5Text
from tests.nn.text.folders import save_clip, save_t5

PROMPTS = [
    "a man talks",
    "",
    "two friends at the sea, a man in a red shirt talks and talks and talks about the sea",
    " She is singing  &amp;amp; the man “talks” ",
]


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return save_clip(tmp_path_factory.mktemp("clip"))


@pytest.fixture(scope="module")
def t5(tmp_path_factory):
    return save_t5(tmp_path_factory.mktemp("t5"))


@pytest.fixture(scope="module")
def umt5(tmp_path_factory):
    return save_t5(tmp_path_factory.mktemp("umt5"), "UMT5", serialised=True)


def stock(folder, model, tokenizer, subfolder=""):
    """Model and tokenizer as diffusers loads them."""
    import transformers

    model = getattr(transformers, model).from_pretrained(folder / f"text_encoder{subfolder}")
    return model.eval(), getattr(transformers, tokenizer).from_pretrained(folder / f"tokenizer{subfolder}")


@torch.no_grad()
def test_clip_is_that_of_stable_diffusion(clip):
    from diffusers import StableDiffusionPipeline

    model, tokenizer = stock(clip, "CLIPTextModel", "CLIPTokenizer")
    pipeline = object.__new__(StableDiffusionPipeline)
    pipeline.register_modules(text_encoder=model, tokenizer=tokenizer)
    ours = CLIPText.from_pretrained(str(clip)).encode(PROMPTS)
    assert ours.embeds.shape == (4, 12, 16)
    assert ours.mask.all(), "the network looks at the padding too"
    positive, negative = pipeline.encode_prompt(PROMPTS, "cpu", 1, True)
    assert torch.equal(ours.embeds, positive)
    assert torch.equal(ours.embeds[1], negative[0]), "the empty prompt guides where no negative one is given"


@torch.no_grad()
def test_last_layers_of_clip_can_be_left_out(clip, tmp_path):
    """What is left is the same model with fewer layers."""
    from transformers import CLIPTextModel

    model = CLIPTextModel.from_pretrained(clip / "text_encoder")
    model.encoder.layers = model.encoder.layers[:-1]
    model.config.num_hidden_layers -= 1
    shutil.copytree(clip / "tokenizer", tmp_path / "tokenizer")
    model.save_pretrained(tmp_path / "text_encoder")
    shorter = CLIPText.from_pretrained(str(tmp_path)).encode(PROMPTS)
    skipping = CLIPText.from_pretrained(str(clip), clip_skip=1).encode(PROMPTS)
    torch.testing.assert_close(skipping.embeds, shorter.embeds)
    assert not torch.equal(skipping.embeds, CLIPText.from_pretrained(str(clip)).encode(PROMPTS).embeds)
    with pytest.raises(ValueError, match=r"clip_skip=4: this CLIP has 3 layers"):
        CLIPText.from_pretrained(str(clip), clip_skip=4).encode(PROMPTS)


def test_the_text_half_of_a_whole_clip(clip, tmp_path):
    """As OpenAI publishes it: tokenizer, text and image encoder in one folder."""
    from transformers import CLIPConfig, CLIPModel, CLIPTextModel

    text = CLIPTextModel.from_pretrained(clip / "text_encoder")
    vision = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    both = CLIPModel(
        CLIPConfig(
            text_config=text.config.to_dict(), vision_config={**vision, "image_size": 8, "patch_size": 4}
        )
    )
    both.text_model.load_state_dict(text.state_dict())
    both.save_pretrained(tmp_path)
    shutil.copytree(clip / "tokenizer", tmp_path, dirs_exist_ok=True)
    ours = CLIPText.from_pretrained(str(tmp_path), text_encoder="", tokenizer="").encode(PROMPTS)
    expected = CLIPText.from_pretrained(str(clip)).encode(PROMPTS)
    assert torch.equal(ours.embeds, expected.embeds)
    assert torch.equal(ours.pooled, expected.pooled)


@torch.no_grad()
@pytest.mark.parametrize("name", ["CogVideoXPipeline", "ConsisIDPipeline"])
def test_t5_is_that_of_cogvideox_and_consisid(t5, name):
    import diffusers

    model, tokenizer = stock(t5, "T5EncoderModel", "T5Tokenizer")
    pipeline = object.__new__(getattr(diffusers, name))
    pipeline.register_modules(text_encoder=model, tokenizer=tokenizer)
    ours = T5Text.from_pretrained(str(t5), max_tokens=14).encode(PROMPTS)
    positive, negative = pipeline.encode_prompt(PROMPTS, max_sequence_length=14, device="cpu")
    assert torch.equal(ours.embeds, positive)
    assert torch.equal(ours.embeds[1:2].expand(4, -1, -1), negative)
    assert ours.mask.all()
    assert ours.pooled is None


@torch.no_grad()
def test_umt5_is_that_of_wan(umt5):
    from diffusers import WanPipeline

    model, tokenizer = stock(umt5, "UMT5EncoderModel", "T5TokenizerFast")
    pipeline = object.__new__(WanPipeline)
    pipeline.register_modules(text_encoder=model, tokenizer=tokenizer)
    ours = T5Text.from_pretrained(str(umt5), max_tokens=16, masked=True, clean=True).encode(PROMPTS)
    positive, negative = pipeline.encode_prompt(PROMPTS, max_sequence_length=16, device="cpu")
    assert torch.equal(ours.embeds, positive)
    assert torch.equal(ours.embeds[1:2].expand(4, -1, -1), negative)
    assert ours.mask.sum(dim=1).tolist()[1:3] == [1, 16]
    assert torch.equal(ours.embeds.ne(0).any(dim=2), ours.mask)
    unclean = T5Text.from_pretrained(str(umt5), max_tokens=16, masked=True).encode(PROMPTS)
    assert torch.equal(unclean.embeds[0], ours.embeds[0])
    assert not torch.equal(unclean.embeds[3], ours.embeds[3])


@torch.no_grad()
def test_a_pair_is_that_of_flux(clip, t5):
    from diffusers import FluxPipeline

    first, second = stock(clip, "CLIPTextModel", "CLIPTokenizer"), stock(t5, "T5EncoderModel", "T5Tokenizer")
    pipeline = object.__new__(FluxPipeline)
    pipeline.register_modules(
        text_encoder=first[0], tokenizer=first[1], text_encoder_2=second[0], tokenizer_2=second[1]
    )
    pipeline.tokenizer_max_length = first[1].model_max_length
    pair = TextPair(T5Text.from_pretrained(str(t5), max_tokens=18), CLIPText.from_pretrained(str(clip)))
    ours = pair.encode(PROMPTS)
    embeds, pooled, _ = pipeline.encode_prompt(PROMPTS, max_sequence_length=18, device="cpu")
    assert torch.equal(ours.embeds, embeds)
    assert torch.equal(ours.pooled, pooled)


def test_what_is_cut_is_told_of_once(t5, clip, caplog):
    long = PROMPTS[2]
    with caplog.at_level(logging.WARNING):
        encoder = T5Text.from_pretrained(str(t5), max_tokens=10)
        whole = len(encoder.tokenizer(long)["input_ids"])
        encoder.encode(["a", long])
        encoder.encode([long])
        CLIPText.from_pretrained(str(clip)).encode(
            ["a man", "sea sea sea sea sea sea sea sea sea sea sea a,"]
        )
    first, second = caplog.messages
    assert first.startswith(f"a prompt of {whole} tokens is cut to 10: the last {whole - 10} are not seen ('")
    assert first.endswith("talks about the sea')")
    assert second == "a prompt of 15 tokens is cut to 12: the last 3 are not seen ('sea a ,')"
    encoder = T5Text.from_pretrained(str(t5), max_tokens=whole)
    caplog.clear()
    encoder.encode([long])
    assert not caplog.messages, "it just fits"


def test_the_weights_come_when_they_are_asked_for_and_can_go(t5):
    encoder = T5Text.from_pretrained(str(t5), max_tokens=8)
    assert "model" not in vars(encoder)
    before = encoder.encode(["a man"])
    assert not before.embeds.requires_grad
    assert not encoder.model.training
    assert not any(parameter.requires_grad for parameter in encoder.model.parameters())
    encoder.free()
    assert "model" not in vars(encoder)
    assert torch.equal(encoder.encode(["a man"]).embeds, before.embeds)
    sent = pickle.dumps(encoder)
    assert len(sent) < 1000, "weights and vocabulary stay here"
    assert torch.equal(pickle.loads(sent).encode(["a man"]).embeds, before.embeds)


def test_its_precision_is_its_own(t5):
    single = T5Text.from_pretrained(str(t5), max_tokens=8)
    half = T5Text.from_pretrained(str(t5), max_tokens=8, dtype="bfloat16")
    expected = single.encode(["a man"]).embeds
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(single.encode(["a man"]).embeds, expected)
    assert half.encode(["a man"]).embeds.dtype == torch.bfloat16
    torch.testing.assert_close(half.encode(["a man"]).embeds.float(), expected, rtol=0.1, atol=0.1)
    with pytest.raises(ValueError, match=r"dtype=int8: give one of auto, float32, bfloat16, float16"):
        T5Text.from_pretrained(str(t5), max_tokens=8, dtype="int8")


def test_the_digest_of_a_tokenizer_is_of_its_rules(t5, umt5, clip):
    encoder = T5Text.from_pretrained(str(t5), max_tokens=8)
    digest = encoder.tokenizer_digest()
    encoder.encode(["a man"])
    assert encoder.tokenizer_digest() == digest, "whatever was asked of it"
    assert CLIPText.from_pretrained(str(clip)).tokenizer_digest() != digest


def test_missing_files_are_named_with_where_they_come_from(clip, t5, tmp_path):
    source = "huggingface.co/THUDM/CogVideoX-5b (CogVideoX licence)"
    with pytest.raises(ValueError, match="no text encoder in") as caught:
        T5Text.from_pretrained(str(tmp_path), max_tokens=8, source=source)
    assert str(caught.value) == (
        f"no text encoder in {tmp_path}: there is no text_encoder/config.json, and no"
        " text_encoder/model.safetensors or text_encoder/model.safetensors.index.json, and no"
        " tokenizer/tokenizer.json or tokenizer/spiece.model or tokenizer/vocab.json;"
        f" fetch {source}"
    )
    folder = shutil.copytree(t5, tmp_path / "pickled")
    (folder / "text_encoder/model.safetensors").rename(folder / "text_encoder/pytorch_model.bin")
    with pytest.raises(ValueError, match=r"there is no text_encoder/model\.safetensors or"):
        T5Text.from_pretrained(str(folder), max_tokens=8)
    with pytest.raises(ValueError, match=r"holds a clip_text_model, not a t5 or umt5"):
        T5Text.from_pretrained(str(clip), max_tokens=8)
    with pytest.raises(ValueError, match=r"holds a t5, not a CLIP"):
        CLIPText.from_pretrained(str(t5))


def test_weights_that_are_not_whole_are_refused(t5, tmp_path):
    """Transformers would leave what is missing at random values, with a warning."""
    from safetensors.torch import load_file, save_file

    folder = shutil.copytree(t5, tmp_path / "part")
    weights = load_file(folder / "text_encoder/model.safetensors")
    name = "encoder.block.1.layer.1.DenseReluDense.wi.weight"
    del weights[name]
    save_file(weights, folder / "text_encoder/model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=rf"lacks weights of a T5EncoderModel: {name} and 0 more"):
        T5Text.from_pretrained(str(folder), max_tokens=8).encode(["a"])


@pytest.mark.parametrize(
    "file", ["text_encoder/config.json", "text_encoder/model.safetensors", "tokenizer/spiece.model"]
)
def test_damaged_files_are_named(t5, tmp_path, file):
    folder = shutil.copytree(t5, tmp_path / "damaged")
    (folder / file).write_bytes((folder / file).read_bytes()[:50])
    with pytest.raises(ValueError, match=rf"{(folder / file).parent} cannot be read as "):
        T5Text.from_pretrained(str(folder), max_tokens=8).encode(["a"])


def test_weights_of_another_size_are_refused(t5, tmp_path):
    folder = shutil.copytree(t5, tmp_path / "other")
    config = folder / "text_encoder/config.json"
    config.write_text(config.read_text().replace('"d_ff": 32', '"d_ff": 48'))
    with pytest.raises(ValueError, match=r"text_encoder cannot be read as T5EncoderModel"):
        T5Text.from_pretrained(str(folder), max_tokens=8).encode(["a"])
