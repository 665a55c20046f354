"""CLIP scores on a tiny random CLIP of the real class, against transformers' own path."""

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import CLIPImageProcessorPil

from portraitgen.faces.dlib import DlibBackend
from portraitgen.metrics.clip_score import load_clip, preprocess
from portraitgen.metrics.grader import ClipGrader as Protocol
from portraitgen.metrics.grader import GradedClip, MissingWeights
from portraitgen.metrics.graders.clip import ClipGrader
from portraitgen.metrics.one_pass import grade_clip
from portraitgen.metrics.pictures import Pictures
from portraitgen.metrics.scores import GENERATED
from tests.metrics.tiny_clip import save_tiny_clip

PROMPT = "a man talks"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_tiny_clip(tmp_path_factory.mktemp("clip"))


@pytest.fixture(scope="module")
def frames():
    return torch.randint(256, (20, 3, 48, 40), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("size", [(48, 40), (33, 77), (32, 32), (20, 31)])
def test_pictures_are_prepared_as_clips_own_processor_does(size):
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(3, 3, 6, 6, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, size=size, mode="bicubic").clamp(0, 1)
    pictures = (smooth * 255).to(torch.uint8)
    processor = CLIPImageProcessorPil(
        size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}, resample=Image.Resampling.BICUBIC
    )
    images = [Image.fromarray(picture.permute(1, 2, 0).numpy()) for picture in pictures]
    expected = processor(images, return_tensors="pt")["pixel_values"]
    found = preprocess(pictures, side=32)
    # One step of 8 bits: PIL's bicubic has another rounding.
    assert (found - expected).abs().max() < 1.01 / 255 / 0.26
    assert (found - expected).abs().mean() < 0.3 / 255 / 0.26


def test_scores_are_logits_per_image(folder, frames):
    scorer = load_clip(folder)
    tokens = scorer.tokenizer(PROMPT, return_tensors="pt")
    with torch.no_grad():
        output = scorer.model(pixel_values=preprocess(frames, side=32), **tokens)
    torch.testing.assert_close(scorer.text_scores(frames, PROMPT), output.logits_per_image[:, 0])
    torch.testing.assert_close(scorer.embed_pictures(frames), output.image_embeds)
    reversed_channels = scorer.text_scores(frames[:, [2, 1, 0]], PROMPT)
    torch.testing.assert_close(scorer.text_scores(frames, PROMPT, bgr=True), reversed_channels)
    assert not torch.allclose(reversed_channels, scorer.text_scores(frames, PROMPT))
    pictures = scorer.embed_pictures(frames)
    likeness = pictures @ pictures[3]
    assert likeness[3].item() == pytest.approx(1, abs=1e-5)
    assert likeness.argmax() == 3
    assert scorer.embed_text(PROMPT * 30).shape == (16,), "a long text is cut"


def clip(frames, *, reference=None, prompt=None):
    backend = DlibBackend()
    return GradedClip(
        video="v",
        method=GENERATED,
        pictures=Pictures(frames, backend, name="frames"),
        truth=None,
        reference=None if reference is None else Pictures(reference, backend, name="reference"),
        driving=None,
        fps=25.0,
        audio=None,
        prompt=prompt,
    )


def test_a_clip_is_the_mean_of_16_frames(folder, frames):
    grader = ClipGrader(str(folder))
    assert isinstance(grader, Protocol)
    grades = grade_clip(grader, clip(frames, reference=frames[0], prompt=PROMPT))
    chosen = frames[np.arange(16) * 20 // 16]
    expected = grader.scorer.text_scores(chosen, PROMPT).mean()
    assert float(grades.scores["clip_text"]) == pytest.approx(float(expected), rel=1e-6)
    assert float(grades.scores["clip_image"]) < 1
    assert grades.reasons == {}
    grades = grade_clip(grader, clip(frames))
    assert grades.reasons == {"clip_text": "no prompt", "clip_image": "no reference picture"}
    assert all(np.isnan(value) for value in grades.scores.values())
    compat = ClipGrader(str(folder), consisid_compat=True)
    assert list(compat.metrics) == ["consisid_compat_clip_text"]
    score = grade_clip(compat, clip(frames, prompt=PROMPT)).scores["consisid_compat_clip_text"]
    assert float(score) == pytest.approx(float(grader.scorer.text_scores(chosen.flip(1), PROMPT).mean()))


def test_what_is_missing_is_named(folder, tmp_path):
    with pytest.raises(MissingWeights, match=r"fetch the folder of clip-vit-base-patch32 .*MIT\)"):
        ClipGrader(str(tmp_path))
    (tmp_path / "config.json").write_bytes((folder / "config.json").read_bytes())
    with pytest.raises(ValueError, match="cannot be read as a CLIP model"):
        load_clip(tmp_path)
    # Older folders hold their weights as torch.save writes them.
    torch.save(load_clip(folder).model.state_dict(), tmp_path / "pytorch_model.bin")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    old, new = ClipGrader(str(tmp_path)), ClipGrader(str(folder))
    torch.testing.assert_close(old.scorer.embed_text("a"), new.scorer.embed_text("a"))
    assert old.facts["weights sha256"] != new.facts["weights sha256"]
