"""Videos of people by ConsisID on Wan through generate.py: from a photo and a prompt, and many in one run."""

import json

import cv2
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import OmegaConf

from portraitgen.faces.conditioner import FaceConditioner
from portraitgen.media.decode import read_video
from portraitgen.nn.text.t5 import T5Text
from portraitgen.runs.config.schema import CONF, register_configs
from portraitgen.runs.generate.generate import generate
from portraitgen.systems.consisid.identity import FaceTokens
from portraitgen.training.weights import plain_state, save_weights
from tests.nn.text.folders import save_t5
from tests.systems.consisid import tiny

PROMPTS = ("a man reads", "a man is at sea")


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Of tiny Wan with a UMT5, as if trained: gates and adapters are open."""
    folder = tmp_path_factory.mktemp("weights")
    text = save_t5(folder / "text", "UMT5", serialised=True)
    settings = OmegaConf.to_container(tiny.config("wan").model, resolve=True)
    settings["prompts"] = {
        "_target_": "portraitgen.nn.text.prompts.Prompts",
        "encoder": {
            "_target_": "portraitgen.nn.text.t5.T5Text.from_pretrained",
            "folder": str(text),
            "max_tokens": 8,
            "masked": True,
        },
    }
    torch.manual_seed(0)
    network = instantiate(settings["network"], _convert_="all")
    for name, parameter in network.named_parameters():
        if name.endswith("face_gate"):
            torch.nn.init.constant_(parameter, 1.0)
        elif parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.2)
    save_weights(
        folder / "wan.safetensors",
        plain_state(network),
        config=settings,
        step=0,
        system="consisid",
        provenance={"data": {"examples": {"size": 64, "clip_frames": 5}}, "shards": []},
    )
    return folder / "wan.safetensors"


@pytest.fixture(scope="module")
def photos(carphone, tmp_path_factory):
    """Of one man, twice: whole, and mirrored."""
    folder = tmp_path_factory.mktemp("photos")
    first = read_video(carphone)[0][..., ::-1]
    cv2.imwrite(str(folder / "ann.png"), first)
    cv2.imwrite(str(folder / "bob.png"), first[:, ::-1])
    return folder


@pytest.fixture
def run(weights, tmp_path):
    """Rows by key, and their frames."""

    def run(*words, out="out"):
        register_configs()
        given = [
            f"weights={weights}",
            f"paths.models={weights.parent}",
            f"out={tmp_path / out}",
            "device=cpu",
        ]
        with initialize_config_dir(str(CONF), version_base="1.3"):
            generate(compose("generate", [*given, *words]))
        rows = [json.loads(line) for line in (tmp_path / out / "samples.jsonl").read_text().splitlines()]
        return rows, [read_video(tmp_path / out / row["video"]).astype(int) for row in rows]

    return run


@pytest.fixture
def calls(monkeypatch):
    """What is run: prompts that are encoded, photos that are looked at, faces that tokens are made of."""
    seen = {"prompts": [], "photos": 0, "tokens": 0}
    encode, of_photos, forward = T5Text.encode, FaceConditioner.of_photos, FaceTokens.forward

    def encoded(self, prompts, **places):
        seen["prompts"] += prompts
        return encode(self, prompts, **places)

    def looked_at(self, pictures, backend):
        seen["photos"] += len(pictures)
        return of_photos(self, pictures, backend)

    def made(self, embedding, hidden):
        seen["tokens"] += len(embedding)
        return forward(self, embedding, hidden)

    monkeypatch.setattr(T5Text, "encode", encoded)
    monkeypatch.setattr(FaceConditioner, "of_photos", looked_at)
    monkeypatch.setattr(FaceTokens, "forward", made)
    return seen


def test_a_photo_and_a_prompt_make_a_video(run, photos):
    (row,), (video,) = run(f"reference={photos}/ann.png", f"prompt={PROMPTS[0]}")
    assert video.shape == (5, 64, 64, 3)
    assert (row["system"], row["prompt"]) == ("consisid", PROMPTS[0])
    assert row["references"] == [[f"{photos}/ann.png"]]
    assert "approximate" not in row
    changes = {
        "prompt": ("ann", PROMPTS[1], ()),
        "face": ("bob", PROMPTS[0], ()),
        "scale": ("ann", PROMPTS[0], ("inputs.face_scale=0",)),
    }
    for out, (name, prompt, words) in changes.items():
        _, (other,) = run(f"reference={photos}/{name}.png", f"prompt={prompt}", *words, out=out)
        assert abs(other - video).max() > 0, f"the {out} has a say"


def test_many_prompts_and_faces_in_one_run(run, calls, photos, tmp_path):
    """UMT5 runs once for each prompt and the networks that look at faces once for each photo; face tokens
    are made once for each video.
    """
    file = tmp_path / "many.csv"
    lines = [f"{photos}/{name}.png,{prompt}" for name in ("ann", "bob") for prompt in PROMPTS]
    file.write_text("\n".join(["reference,prompt", *lines]))
    rows, videos = run(f"requests={file}")
    found = {(row["references"][0][0].rpartition("/")[2], row["prompt"]) for row in rows}
    assert found == {(f"{name}.png", prompt) for name in ("ann", "bob") for prompt in PROMPTS}
    assert len({video.tobytes() for video in videos}) == 4
    assert sorted(calls["prompts"]) == sorted(["", *PROMPTS])
    assert calls["photos"] == 2
    assert calls["tokens"] == 4


def test_skipped_blocks_are_stated_and_forgotten_between_videos(run, photos, tmp_path):
    """By a threshold of 0 nothing is skipped, by 1 nearly all, and the second video is that of a new run."""
    file = tmp_path / "two.jsonl"
    texts = [{"reference": f"{photos}/ann.png", "prompt": prompt} for prompt in PROMPTS]
    file.write_text("\n".join(map(json.dumps, texts)))
    steps = "sampling.num_steps=6"
    _, exact = run(f"requests={file}", steps, out="exact")
    rescale = "+sampling.cache_rescale=[1.0,0.0]"
    rows, nothing = run(f"requests={file}", steps, rescale, "+sampling.cache_threshold=0", out="nothing")
    assert [row["approximate"] for row in rows] == [{"step_cache": 0}] * 2
    assert all((a == b).all() for a, b in zip(exact, nothing, strict=True))
    skips = (steps, rescale, "+sampling.cache_threshold=1")
    _, skipped = run(f"requests={file}", *skips, out="skipped")
    assert all((a != b).any() for a, b in zip(exact, skipped, strict=True))
    _, (alone,) = run(f"reference={photos}/ann.png", f"prompt={PROMPTS[1]}", *skips, out="alone")
    assert (alone == skipped[1]).all()
