"""Captions embedded once by `prepare.py features`, and a batch that has them as if it had been encoded."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hydra.errors import InstantiationException
from safetensors.numpy import load_file

from portraitgen.data.sample import DataError
from portraitgen.data.shards import ShardWriter
from portraitgen.nn.text.clip import CLIPText
from portraitgen.nn.text.pair import TextPair
from portraitgen.nn.text.prompts import Prompts
from portraitgen.nn.text.t5 import T5Text
from portraitgen.runs.prepare.features.prompt import PromptEmbeddings
from tests.data.modules import clip_module, photo_module
from tests.data.photos import Person, photo
from tests.nn.text.folders import save_clip, save_t5
from tests.synthetic import synthetic_clip

CAPTIONS = {"clip0": "a man talks", "clip1": "two friends at the sea", "clip2": None, "clip3": ""}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    save_clip(folder / "clip")
    save_t5(folder / "t5")
    save_t5(folder / "umt5", "UMT5")
    return folder


@pytest.fixture
def root(tmp_path):
    with ShardWriter(tmp_path / "data") as writer:
        for number, (name, caption) in enumerate(CAPTIONS.items()):
            clip = synthetic_clip(name, num_frames=18, size=32, seed=number)
            writer.write(replace(clip, caption=caption))
    return tmp_path / "data"


def batches(root, *features, num_workers=0):
    module = clip_module(
        str(root / "shards" / "*.tar"),
        clip_frames=2,
        batch_size=3,
        samples_per_epoch=9,
        pictures=False,
        features=features,
        num_workers=num_workers,
    )
    read = [module.on_after_batch_transfer(batch, 0) for batch in module.train_dataloader()]
    module.teardown("fit")
    return read


def settings(models, name, option, **more):
    place = f"features.{name}.encoder"
    words = [f"features=[{name}]", f"text@{place}={option}"]
    return [*words, *(f"{place}.{key}={value}" for key, value in {"dtype": "auto", **more}.items())]


WAN = {"max_tokens": 9, "masked": True, "clean": True}


@pytest.mark.parametrize("num_workers", [0, 2])
def test_training_from_embeddings_equals_training_from_captions(run, root, models, num_workers):
    """UMT5's tokens and CLIP's vector, dropped or not, on slabs that other captions lay on before."""
    folder = {"folder": models / "umt5", "max_tokens": 9}
    messages = run(f"out={root}", *settings(models, "prompt", "umt5_wan", **folder))
    assert messages[-2] == "left out train-000000: clip2-000000000: has no caption"
    run(f"out={root}", *settings(models, "pooled_prompt", "clip", folder=models / "clip"))
    encoder = TextPair(
        T5Text.from_pretrained(str(models / "umt5"), **WAN), CLIPText.from_pretrained(str(models / "clip"))
    )
    online, stored = Prompts(encoder), Prompts()
    like, keep = torch.zeros(1), torch.tensor([True, False, True])
    seen = set()
    for batch in batches(root, "prompt", "pooled_prompt", num_workers=num_workers):
        captions = [CAPTIONS[key.partition("-")[0]] for key in batch["key"]]
        seen.update(captions)
        assert batch["prompt_embeds"].shape == (3, 9, 16)
        assert batch["prompt_embeds"].dtype == batch["empty_prompt_embeds"].dtype == torch.float32
        assert batch["empty_prompt_mask"].tolist() == [[True] + [False] * 8]
        for mask in (None, keep):
            read = stored.with_empty(stored.of_batch(batch, like=like), mask)
            computed = online.with_empty(online.of_batch({"caption": captions}, like=like), mask)
            torch.testing.assert_close(read.embeds, computed.embeds, rtol=1e-3, atol=1e-3)
            torch.testing.assert_close(read.pooled, computed.pooled, rtol=1e-3, atol=1e-3)
            assert torch.equal(read.mask, computed.mask)
            assert torch.equal(read.embeds.ne(0).any(dim=2), read.mask)
    assert seen == {"a man talks", "two friends at the sea", ""}


def test_photos_have_prompts_too(run, models, tmp_path):
    root = tmp_path / "photos"
    with ShardWriter(root) as writer:
        writer.write(photo("pair", (64, 96), [Person(0, 0, 48), Person(48, 8, 48)], caption="two friends"))
    folder = models / "clip"
    for name in ("prompt", "pooled_prompt"):
        run(f"out={root}", *settings(models, name, "clip", folder=folder))
    module = photo_module(
        str(root / "shards" / "*.tar"),
        size=[64, 64],
        people=2,
        batch_size=2,
        samples_per_epoch=2,
        features=["prompt", "pooled_prompt"],
    )
    (batch,) = [module.on_after_batch_transfer(each, 0) for each in module.train_dataloader()]
    assert batch["people"].shape == (2, 2)
    expected = CLIPText.from_pretrained(str(folder)).encode(["two friends", ""])
    torch.testing.assert_close(batch["prompt_embeds"][1], expected.embeds[0], rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(batch["empty_prompt_embeds"][0], expected.embeds[1], rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(batch["pooled_prompt_embeds"][1], expected.pooled[0], rtol=1e-3, atol=1e-3)


def test_what_is_stored_is_the_prompts_own_tokens(run, root, models):
    """Where the padding is encoded like words, it is stored like words; zeros are not stored."""
    own = {"folder": models / "umt5", "max_tokens": 9}
    run(f"out={root}", *settings(models, "prompt", "umt5_wan", **own))
    (folder,) = (root / "aux").iterdir()
    index = np.load(folder / "train-000000.idx.npz")
    assert index["shapes"].tolist()[3] == [1, 16]
    assert 1 < index["shapes"][0, 0] < 9
    empty = load_file(folder / "empty.safetensors")["empty"]
    assert empty.shape == (1, 16)
    assert empty.dtype == np.float16
    other = settings(models, "prompt", "t5_cogvideox", folder=models / "t5", max_tokens=9)
    run(f"out={root}", *other)
    (folder,) = set((root / "aux").iterdir()) - {folder}
    assert np.load(folder / "train-000000.idx.npz")["shapes"].tolist() == [[9, 16], [9, 16], [0, 0], [9, 16]]
    (batch, *_) = batches(root, folder.name)
    assert batch["prompt_mask"].all()
    encoder = T5Text.from_pretrained(str(models / "t5"), max_tokens=9)
    expected = encoder.encode([CAPTIONS[key.partition("-")[0]] for key in batch["key"]])
    torch.testing.assert_close(batch["prompt_embeds"], expected.embeds, rtol=1e-3, atol=1e-3)


def test_weights_and_settings_make_another_feature(run, root, models):
    own = {"folder": models / "t5"}
    for more in ({"max_tokens": 9}, {"max_tokens": 8}, {"max_tokens": 9, "dtype": "bfloat16"}):
        run(f"out={root}", *settings(models, "prompt", "t5_cogvideox", **own, **more))
    assert len(list((root / "aux").iterdir())) == 3
    messages = run(f"out={root}", *settings(models, "prompt", "t5_cogvideox", **own, max_tokens=9))
    assert "1 finished before" in messages[0]


def test_captions_of_a_model_take_the_place_of_those_in_the_shards(run, root, models, tmp_path):
    from portraitgen.data.features.store import FeatureFacts, write_features

    said = {"clip0": "the sea", "clip1": None, "clip2": "a woman smiles", "clip3": "a man"}
    facts = FeatureFacts("caption", "1a2b3c4d", "caption", "text", {})
    (shard,) = (root / "shards").iterdir()
    write_features(facts.save(root), shard, ((f"{name}-000000000", text) for name, text in said.items()))
    words = settings(models, "prompt", "t5_cogvideox", folder=models / "t5", max_tokens=9)
    with pytest.raises(InstantiationException, match=r"captions=caption: give the full name of the feature"):
        run(f"out={root}", *words, "features.prompt.captions=caption")
    messages = run(f"out={root}", *words, "features.prompt.captions=caption@1a2b3c4d")
    assert messages[-2] == "left out train-000000: clip1-000000000: has no caption@1a2b3c4d"
    encoder = T5Text.from_pretrained(str(models / "t5"), max_tokens=9)
    for batch in batches(root, "prompt"):
        expected = encoder.encode([said[key.partition("-")[0]] for key in batch["key"]])
        torch.testing.assert_close(batch["prompt_embeds"], expected.embeds, rtol=1e-3, atol=1e-3)


def test_what_cannot_be_done_is_said(run, root, models, tmp_path):
    with pytest.raises(InstantiationException, match=r"no text encoder in \S+: .*; fetch text_encoder/ and"):
        run(f"out={root}", *settings(models, "prompt", "t5_cogvideox", folder=tmp_path))
    with pytest.raises(ValueError, match=r"a T5 has no pooled vector; give a CLIPText"):
        run(
            f"out={root}",
            *settings(models, "pooled_prompt", "t5_cogvideox", folder=models / "t5", max_tokens=9),
        )
    pair = TextPair(
        T5Text.from_pretrained(str(models / "t5"), max_tokens=9),
        CLIPText.from_pretrained(str(models / "clip")),
    )
    with pytest.raises(ValueError, match=r"features\.prompt\.encoder: give one encoder, CLIPText or T5Text"):
        PromptEmbeddings(pair)  # type: ignore[arg-type]


def test_a_damaged_empty_prompt_is_refused(run, root, models):
    run(f"out={root}", *settings(models, "prompt", "t5_cogvideox", folder=models / "t5", max_tokens=9))
    (file,) = (root / "aux").glob("*/empty.safetensors")
    whole = file.read_bytes()
    file.write_bytes(whole[:20])
    with pytest.raises(DataError, match=r"empty\.safetensors is damaged"):
        batches(root, "prompt")
    file.unlink()
    run(f"out={root}", *settings(models, "prompt", "t5_cogvideox", folder=models / "t5", max_tokens=9))
    assert file.read_bytes() == whole
