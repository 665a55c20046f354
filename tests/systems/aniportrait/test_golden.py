"""Network and sampling against the official code, on seeded random weights."""

import copy
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch import Tensor, nn

from portraitgen.diffusion.latents import LatentCodec
from portraitgen.nn.reference_attention import ReferenceFeatures
from portraitgen.systems.aniportrait.network import AniPortraitNetwork
from portraitgen.systems.aniportrait.published import load_published, published_state
from portraitgen.training.public_unets import from_published_name

UNET = {
    "block_out_channels": [32, 64, 128, 128],
    "layers_per_block": 1,
    "attention_head_dim": 4,
    "cross_attention_dim": 24,
}
SEEDS = {"denoising_unet": 1, "motion_module": 1, "reference_unet": 2, "pose_guider": 3}
# Largest |difference| against outputs of up to 2.5; float16 features cost a digit.
FORWARD_TOLERANCE = 2e-5
GRADIENT_TOLERANCE = 1e-4
# Largest |difference| of latents of up to 5.8, after three steps whose guidance enlarges what differs.
LATENTS_TOLERANCE = 2e-4
# The golden's gradients of parameters that never get one are rounding errors of a softmax over one token.
NOISE = 1e-6

CASES = (
    "nocfg_b1_f1",
    "nocfg_b2_f4",
    "cfg_b1_f2_h9w11",
    "cfg_b1_f2_nopose",
    "cfg_b1_f5",
    "cfg_b1_f16_bank16",
    "grad_nocfg_b1_f3",
    "stage1_nocfg_b2_f1",
)


def upstream_weight(name: str, shape: tuple[int, ...], seed: int) -> Tensor:
    """The random weight of the published name `name`: a grid of 8-bit steps, scaled by the kind of tensor."""
    # RandomState, because its stream never changes.
    stream = np.random.RandomState(zlib.crc32(name.encode()) ^ seed)
    steps = np.clip(np.rint(32 * stream.standard_normal(shape)), -127, 127).astype(np.float32)
    offset, scale = 0.0, 0.1 / 32
    if name == "scale":
        offset, scale = 1.5, 0.0
    elif name.endswith("running_mean"):
        scale = 0.2 / 32
    elif name.endswith("running_var"):
        steps, offset, scale = np.abs(steps), 0.5, 0.5 / 32
    elif len(shape) > 1:
        scale = 0.9 / 32 / np.sqrt(np.prod(shape[1:]))
    elif name.endswith("weight"):
        offset, scale = 1.0, 0.2 / 32
    return torch.from_numpy(steps * np.float32(scale) + np.float32(offset))


def build(*, motion: bool) -> AniPortraitNetwork:
    network = AniPortraitNetwork(
        denoising_unet=UNET,
        reference_unet=UNET,
        pose_guider={"num_attention_heads": 2, "attention_head_dim": 16},
        motion={"motion_num_attention_heads": 8, "motion_max_seq_length": 32} if motion else None,
    )
    computed = (".pe", "num_batches_tracked")
    files = {
        file: {
            name: value if name.endswith(computed) else upstream_weight(name, tuple(value.shape), SEEDS[file])
            for name, value in tensors.items()
        }
        for file, tensors in published_state(network).items()
    }
    load_published(network, **files)
    return network


@pytest.fixture(scope="module")
def golden(repository: Path) -> dict[str, Tensor]:
    with np.load(repository / "tests/golden/aniportrait_tiny/golden.npz", allow_pickle=False) as file:
        return {name: torch.from_numpy(file[name]) for name in file.files}


@pytest.fixture(scope="module")
def network() -> AniPortraitNetwork:
    return build(motion=True)


@pytest.fixture(scope="module")
def image_network() -> AniPortraitNetwork:
    return build(motion=False)


def predict(network: AniPortraitNetwork, golden: dict[str, Tensor], case: str, *, cached: bool) -> Tensor:
    """Run `case`, both halves of guidance in one batch where it has them; B T C H W."""
    clip = golden[f"{case}.clip"]
    latents = golden[f"{case}.latents"].transpose(1, 2)
    levels = [name for name in golden if name.startswith(f"{case}.pose_fea.")]
    pose = [golden[name].transpose(1, 2) for name in sorted(levels)]
    features = network.encode_reference(golden[f"{case}.ref_latents"], clip)
    keep = None
    if case.startswith("cfg"):
        keep = torch.tensor([False] * len(latents) + [True] * len(latents))
        clip = torch.cat([torch.zeros_like(clip), clip])
        latents = torch.cat([latents] * 2)
        pose = [torch.cat([maps] * 2) for maps in pose]
        features = ReferenceFeatures(tuple(torch.cat([tokens] * 2) for tokens in features.tokens))
    return network(
        latents,
        golden[f"{case}.t"].expand(len(latents)),
        reference=network.project_reference(features) if cached else features,
        pose=pose,
        image_embeds=clip,
        keep=keep,
    )


@pytest.mark.parametrize("cached", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_prediction(golden, network, image_network, case, cached, monkeypatch, record_bits):
    if case.startswith("stage1"):
        network = image_network
    if case.endswith("bank16"):
        monkeypatch.setattr(network, "reference_dtype", torch.float16)

    with torch.no_grad():
        prediction = predict(network, golden, case, cached=cached)
    record_bits([prediction])

    expected = golden[f"{case}.out"].transpose(1, 2)
    torch.testing.assert_close(prediction, expected, atol=FORWARD_TOLERANCE, rtol=0)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_gradients(golden, network, checkpointing, record_bits):
    case = "grad_nocfg_b1_f3"
    network.set_gradient_checkpointing(checkpointing)
    network.zero_grad()

    prediction = predict(network, golden, case, cached=False)
    (prediction.transpose(1, 2) * golden[f"{case}.loss_weight"]).sum().backward()
    network.set_gradient_checkpointing(False)
    record_bits(parameter.grad for parameter in network.parameters() if parameter.grad is not None)

    compared = 0
    for name, expected in golden.items():
        kind, _, published = name.removeprefix(f"{case}.grad.").partition(":")
        if kind not in ("den", "ref"):
            continue
        unet = network.denoising_unet if kind == "den" else network.reference_unet
        gradient = unet.get_parameter(from_published_name(published)).grad
        largest = expected.abs().max()
        if gradient is None:
            assert largest < NOISE, f"{name} has no gradient"
        else:
            assert (gradient - expected).abs().max() < GRADIENT_TOLERANCE * largest, name
        compared += 1
    assert compared == 20


@pytest.mark.parametrize("memory", ["contiguous", "frames last", "channels last"])
@pytest.mark.parametrize("mode", ["train", "eval"])
def test_pose_maps(golden, image_network, mode, memory, record_bits):
    guider = copy.deepcopy(image_network.pose_guider).train(mode == "train")
    drawings = golden["pose.pose_u8"][0].float()  # C T H W
    drawings = (2 * drawings - 1 if mode == "train" else drawings / 127.5 - 1).transpose(0, 1)
    if memory == "contiguous":
        drawings = drawings.contiguous()
    elif memory == "channels last":
        drawings = drawings.contiguous(memory_format=torch.channels_last)

    with torch.no_grad():
        maps = guider(drawings)
    record_bits(maps)

    for level, found in enumerate(maps):
        expected = golden[f"pose.fea_{mode}.{level}"][0].transpose(0, 1)
        if level == 0:
            found = found[:1, :8]
        assert (found - expected).abs().max() < 1e-5 * expected.abs().max(), level


class GivenLatents(LatentCodec):
    """Encodes every image to the golden's reference latents."""

    channels, factor = 4, 8

    def __init__(self, latents: Tensor) -> None:
        super().__init__()
        self.latents = latents

    def encode(
        self, images: Tensor, *, sample: bool = False, generator: torch.Generator | None = None
    ) -> Tensor:
        return self.latents

    def decode(self, latents: Tensor) -> Tensor:
        return latents


class GivenEmbedding(nn.Module):
    """Embeds every image as the golden's."""

    def __init__(self, embedding: Tensor) -> None:
        super().__init__()
        self.embedding = embedding

    def forward(self, images: Tensor) -> Tensor:
        return self.embedding[:, None]


@pytest.mark.parametrize(("run", "steps", "scale"), [("f20_s3_cfg", 3, 3.5), ("f7_s2_nocfg", 2, 1.0)])
def test_sampling_of_the_released_weights(repository, network, monkeypatch, run, steps, scale, record_bits):
    """`sampling=aniportrait_released` gives the official pipeline's clip from the official seed."""
    with np.load(repository / "tests/golden/aniportrait_tiny/pipeline.npz", allow_pickle=False) as file:
        golden = {name: torch.from_numpy(file[name]) for name in file.files}
    monkeypatch.setattr(network, "reference_dtype", torch.float16)
    settings = OmegaConf.load(repository / "conf/sampling/aniportrait_released.yaml")
    settings.update(num_steps=steps, guidance_scale=scale)
    pipeline = instantiate(settings)(
        network.eval(),
        GivenLatents(golden[f"{run}.ref_latents"]),
        image_encoder=GivenEmbedding(golden[f"{run}.clip_embed"]),
    )
    pose = golden[f"{run}.pose_u8"].permute(0, 3, 1, 2)[None] / 127.5 - 1

    generator = torch.Generator().manual_seed(42)
    latents = pipeline.sample_latents(torch.zeros(1, 3, *pose.shape[-2:]), pose, generator=generator)
    record_bits([latents])

    assert torch.equal(pipeline.scheduler.timesteps, golden[f"{run}.timesteps"])
    expected = golden[f"{run}.latents"].transpose(1, 2)
    torch.testing.assert_close(latents, expected, atol=LATENTS_TOLERANCE, rtol=0)
    if f"{run}.init" in golden:
        shape, generator = latents.shape, torch.Generator().manual_seed(42)
        noise = pipeline._draw_noise(tuple(shape), device=latents.device, generator=generator)
        assert torch.equal(noise, golden[f"{run}.init"].transpose(1, 2))
