"""A run that trains adapters on a pretrained base: what its files hold, and that they are enough."""

import hashlib
import os
import shutil
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, UNet2DModel
from lightning.pytorch import seed_everything
from torch import Tensor, nn

from portraitgen.diffusion.latents import PixelCodec
from portraitgen.diffusion.objective import DiffusionObjective
from portraitgen.nn.lora import add_lora, plain_name
from portraitgen.nn.pretrained import base_tensors, bases, build_model
from portraitgen.training import learner
from portraitgen.training.bases import base_facts, load_trained, require_same_bases
from portraitgen.training.weights import load_weights, save_weights
from tests.training import toy

UNET = {
    "sample_size": 8,
    "in_channels": 24,
    "out_channels": 12,
    "block_out_channels": (8, 8),
    "layers_per_block": 1,
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
    "norm_num_groups": 4,
    "attention_head_dim": 4,
}
LORA = {"rank": 2, "alpha": 6, "targets": ["denoiser.*.to_[qkv]"]}
ADAPTERS = ["*.lora_[AB].*"]


class AdaptedNetwork(nn.Module):
    """A pretrained denoiser with adapters beside a part that is new."""

    def __init__(self, base: dict[str, Any] | None, lora: dict[str, Any] | None) -> None:
        super().__init__()
        self.denoiser = build_model(UNet2DModel, UNET, base)
        self.reference = nn.Conv2d(12, 12, 3, padding=1)
        add_lora(self, lora)

    def forward(self, noisy: Tensor, time: Tensor, reference: Tensor) -> Tensor:
        frames = noisy.shape[1]
        features = self.reference(reference)[:, None].expand(-1, frames, -1, -1, -1)
        stacked = torch.cat([noisy, features], dim=2).flatten(0, 1)
        stacked = stacked.to(self.denoiser.conv_in.weight.dtype)
        predicted = self.denoiser(stacked, time.repeat_interleave(frames)).sample
        return predicted.to(noisy.dtype).unflatten(0, (-1, frames))


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory) -> Path:
    torch.manual_seed(7)
    folder = tmp_path_factory.mktemp("models") / "unet"
    UNet2DModel(**UNET).save_pretrained(folder)
    return folder


def generator(pretrained: Path | None, lora: dict[str, Any] | None = None, **base: Any) -> toy.ToyGenerator:
    seed_everything(0, verbose=False)
    given = None if pretrained is None else {"path": str(pretrained), **base}
    network = AdaptedNetwork(given, {"face": LORA} if lora is None else lora)
    return toy.ToyGenerator(
        network,
        PixelCodec(2),
        DiffusionObjective(DDIMScheduler(prediction_type="sample")),
        optimizer=partial(torch.optim.AdamW, lr=1e-2),
    )


def last(run: Path) -> Path:
    return run / "weights/last.safetensors"


def predict(network: nn.Module) -> Tensor:
    source = torch.Generator().manual_seed(1)
    noisy, reference = (
        torch.randn(1, 2, 12, 8, 8, generator=source),
        torch.randn(1, 12, 8, 8, generator=source),
    )
    with torch.no_grad():
        # Frozen, as generation has it: torch's kernels differ in the last bit by what needs a gradient.
        return network.eval().requires_grad_(False)(noisy, torch.tensor([10]), reference)


def built_from(path: Path, pretrained: Path, **base: Any) -> nn.Module:
    """The network as generation builds it: from the base, with the file laid over."""
    learner = generator(pretrained, **base)
    tensors, facts = load_weights(path)
    require_same_bases(learner, facts, source=path)
    assert load_trained(learner.network, tensors, source=path) == []
    return learner.network


@pytest.mark.parametrize(
    ("precision", "dtype"), [("32-true", "float32"), ("32-true", "bfloat16"), ("bf16-mixed", "bfloat16")]
)
def test_a_run_of_adapters_resumes_exactly_and_its_small_file_gives_the_same_network(
    tmp_path: Path, pretrained: Path, precision: str, dtype: str
) -> None:
    train: dict[str, Any] = {"save_every": 2, "train": [*ADAPTERS, "reference.*"]}
    trainer = {"precision": precision}
    before = generator(pretrained, dtype=dtype).network.state_dict()
    toy.train(
        tmp_path / "run",
        generator=generator(pretrained, dtype=dtype),
        trainer=trainer | {"max_steps": 2},
        **train,
    )
    resumed = toy.train(
        tmp_path / "run",
        generator=generator(pretrained, dtype=dtype),
        trainer=trainer | {"max_steps": 4},
        **train,
    )
    toy.train(
        tmp_path / "whole",
        generator=generator(pretrained, dtype=dtype),
        trainer=trainer | {"max_steps": 4},
        **train,
    )
    tensors, facts = load_weights(last(tmp_path / "run"))
    expected, _ = load_weights(last(tmp_path / "whole"))
    assert tensors.keys() == expected.keys()
    assert all(torch.equal(tensors[name], expected[name]) for name in tensors)

    assert all(".lora_" in name or name.startswith("reference.") for name in tensors)
    assert {value.dtype for value in tensors.values()} == {torch.float32}
    assert facts["lora"] == {"face": {"rank": 2, "alpha": 6}}
    (base,) = facts["bases"].items()
    assert base[0] == "network.denoiser"
    assert [*base[1]["files"]] == ["diffusion_pytorch_model.safetensors"]
    assert last(tmp_path / "run").stat().st_size < 0.5 * sum(f.stat().st_size for f in pretrained.iterdir())
    checkpoint = torch.load(tmp_path / "run/checkpoints/last.ckpt", weights_only=True)
    assert {plain_name(name.removeprefix("network.")) for name in checkpoint["state_dict"]} == tensors.keys()

    state = resumed.network.state_dict()
    for name, value in state.items():
        trained = ".lora_" in name or name.startswith("reference.")
        assert torch.equal(value, before[name]) is not trained, name
        assert value.dtype == (torch.float32 if trained else getattr(torch, dtype)), name
    network = built_from(last(tmp_path / "run"), pretrained, dtype=dtype)
    with_averages = resumed.network
    with_averages.load_state_dict(
        {n: v for n, v in network.state_dict().items() if plain_name(n) in tensors}, False
    )
    assert torch.equal(predict(network), predict(with_averages))
    assert not torch.equal(predict(network), predict(generator(pretrained, dtype=dtype).network))


def test_a_later_stage_carries_along_what_earlier_ones_trained(tmp_path: Path, pretrained: Path) -> None:
    """Stage 1 trains part of the base, without adapters; stage 2 adapters on it."""
    one = ["denoiser.conv_in.*", "denoiser.down_blocks.1.attentions.0.to_q.weight", "reference.*"]
    short = {"max_steps": 2}
    (file,) = pretrained.glob("*.safetensors")
    before = file.read_bytes()
    toy.train(tmp_path / "1", generator=generator(pretrained, {}), trainer=short, train=one, name="one")
    first, _ = load_weights(last(tmp_path / "1"))
    assert file.read_bytes() == before, "training a base in place must not write to its file"
    assert first.keys() == {
        "denoiser.conv_in.weight",
        "denoiser.conv_in.bias",
        "denoiser.down_blocks.1.attentions.0.to_q.weight",
        "reference.weight",
        "reference.bias",
    }
    stage: dict[str, Any] = {"init_from": last(tmp_path / "1"), "train": ADAPTERS, "name": "two"}
    with pytest.raises(ValueError, match=r"\d+ not in the file:\n.*lora_A\.face"):
        toy.train(tmp_path / "no", generator=generator(pretrained), trainer=short, **stage)
    stage["expect_missing"] = ADAPTERS
    toy.train(tmp_path / "2", generator=generator(pretrained), trainer=short, **stage)
    second, _ = load_weights(last(tmp_path / "2"))
    assert all(torch.equal(second[name], first[name]) for name in first)
    assert {name for name in second if name not in first} == {
        plain_name(name) for name, _ in generator(pretrained).network.named_parameters() if ".lora_" in name
    }
    stage = {"init_from": last(tmp_path / "2"), "train": ["reference.*"], "name": "three"}
    trained = toy.train(tmp_path / "3", generator=generator(pretrained), trainer=short, **stage)
    third, _ = load_weights(last(tmp_path / "3"))
    assert third.keys() == second.keys()
    assert torch.equal(third["denoiser.conv_in.weight"], first["denoiser.conv_in.weight"])
    assert torch.equal(
        predict(built_from(last(tmp_path / "3"), pretrained)),
        predict(_with(trained.network, third)),
    )


def _with(network: nn.Module, tensors: dict[str, Tensor]) -> nn.Module:
    own = {plain_name(name): name for name in network.state_dict()}
    network.load_state_dict({own[name]: value for name, value in tensors.items()}, strict=False)
    return network


def test_a_network_without_a_base_is_written_whole(tmp_path: Path) -> None:
    trained = toy.train(tmp_path, generator=generator(None), trainer={"max_steps": 2}, train=ADAPTERS)
    tensors, facts = load_weights(last(tmp_path))
    assert tensors.keys() == {plain_name(name) for name in trained.network.state_dict()}
    assert "bases" not in facts


@pytest.fixture
def adapters(tmp_path: Path, pretrained: Path) -> Path:
    """A weights file of adapters, without training."""
    made = generator(pretrained)
    tensors = {
        n: v for n, v in made.network.state_dict().items() if ".lora_" in n or n.startswith("reference.")
    }

    facts = {"bases": base_facts(bases(made)), "lora": {"face": {"rank": 2, "alpha": 6}}}
    save_weights(tmp_path / "a.safetensors", tensors, config={}, step=1, system="toy", provenance=facts)
    return tmp_path / "a.safetensors"


def test_another_base_is_refused_by_name_and_digest(tmp_path: Path, pretrained: Path, adapters: Path) -> None:
    built_from(adapters, pretrained)
    torch.manual_seed(8)
    UNet2DModel(**UNET).save_pretrained(tmp_path / "other")
    with pytest.raises(ValueError) as caught:
        built_from(adapters, tmp_path / "other")
    message = str(caught.value)
    assert (
        f"{adapters}: its network.denoiser stands on another diffusion_pytorch_model.safetensors" in message
    )
    assert message.count("SHA-256") == 1
    assert "point the setting to where that is" in message
    with pytest.raises(ValueError, match="stands on another diffusion_pytorch_model"):
        toy.train(
            tmp_path / "run", generator=generator(tmp_path / "other"), train=ADAPTERS, init_from=adapters
        )
    UNet2DModel(**UNET).save_pretrained(tmp_path / "sharded", max_shard_size="20KB")
    with pytest.raises(ValueError, match=r"in .*sharded there is diffusion_pytorch_model-00001-of"):
        built_from(adapters, tmp_path / "sharded")


def test_a_network_without_the_base_or_of_another_strength_is_refused(
    pretrained: Path, adapters: Path
) -> None:
    _, facts = load_weights(adapters)
    with pytest.raises(ValueError, match=r"stands on .*unet, which this network does not load"):
        require_same_bases(generator(None), facts, source=adapters)
    stronger = generator(pretrained, {"face": LORA | {"alpha": 2}})
    with pytest.raises(
        ValueError, match=r"trained with alpha 6, here it has 2.*network\.lora\.face\.alpha to 6"
    ):
        require_same_bases(stronger, facts, source=adapters)


def test_a_base_is_hashed_once_and_a_changed_one_ends_a_run(
    tmp_path: Path, pretrained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from portraitgen.media import digests

    hashed: list[Path] = []
    digest = digests.file_digest
    monkeypatch.setattr(digests, "file_digest", lambda path: hashed.append(path) or digest(path))
    models = tmp_path / "unet"
    shutil.copytree(pretrained, models)
    for steps in (1, 2):
        toy.train(tmp_path / "run", generator=generator(models), trainer={"max_steps": steps}, train=ADAPTERS)
    assert len(hashed) == 1

    torch.manual_seed(9)
    UNet2DModel(**UNET).save_pretrained(models)
    with pytest.raises(ValueError, match="the frozen weights are not those this run was started with"):
        toy.train(tmp_path / "run", generator=generator(models), trainer={"max_steps": 3}, train=ADAPTERS)
    assert len(hashed) == 2


def test_of_a_base_only_its_files_are_hashed(pretrained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = generator(pretrained)
    for name, parameter in made.network.named_parameters():
        parameter.requires_grad_(".lora_" in name)
    sizes = []

    class Counting:
        def __init__(self) -> None:
            self.inner = hashlib.sha256()

        def update(self, data: Any) -> None:
            sizes.append(len(data))
            self.inner.update(data)

        def hexdigest(self) -> str:
            return self.inner.hexdigest()

    monkeypatch.setattr(learner, "hashlib", SimpleNamespace(sha256=Counting))
    learner.Learner.setup(made, "fit")
    large = [size for size in sizes if size > 200]
    assert large == [12 * 12 * 9 * 4]  # the new part's weight; its base would be some hundred times that
    first = made._frozen_digest
    with torch.no_grad():
        made.network.denoiser.conv_out.bias.add_(1)
    learner.Learner.setup(made, "fit")
    assert made._frozen_digest != first
    assert "denoiser.conv_out.bias" not in base_tensors(made.network)


def test_a_file_with_the_base_in_it_still_fits(tmp_path: Path, pretrained: Path) -> None:
    """Of a run without a base, such as a converted model: everything in it counts, nothing is the base's."""
    whole = generator(None).network
    tensors = {plain_name(name): value for name, value in whole.state_dict().items()}
    save_weights(tmp_path / "w.safetensors", tensors, config={}, step=0, system="toy")
    made = generator(pretrained)
    toy.train(
        tmp_path / "run",
        generator=made,
        trainer={"max_steps": 1},
        train=ADAPTERS,
        init_from=tmp_path / "w.safetensors",
    )
    written, facts = load_weights(last(tmp_path / "run"))
    assert written.keys() == tensors.keys()
    assert "bases" not in facts
    assert torch.equal(written["denoiser.conv_in.weight"], tensors["denoiser.conv_in.weight"])
    assert os.path.getsize(last(tmp_path / "run")) > sum(t.numel() * 4 for t in tensors.values())
