"""What ConsisID's denoising loop costs: the official way of doing it against ours, on the same network.

    python -m benchmarks.consisid_denoise [--rounds 3] [--steps 6] [--layers 4]

Both sample the same clip with guidance from the same noise, so their latents must agree.

    official   the face extractor at every step, prompt and empty prompt in two passes, LoRA as two more
               products in every projection
    ours       ConsisIDPipeline: face tokens once, both prompts in one pass, adapters merged into the weights

In rounds that take turns; figures are CPU seconds, medians. The goals are a ratio of at least 1 and latents
within 1e-4. Exits with 1 if one is missed. What a full-size network costs: `train.py … plan=true`.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable

import torch
from diffusers import CogVideoXDPMScheduler
from torch import Tensor

from portraitgen.diffusion.image_condition import stretched
from portraitgen.diffusion.noise import seeded_generators
from portraitgen.diffusion.sampling import sample
from portraitgen.diffusion.video_latents import PixelVideoCodec
from portraitgen.nn.text.encoding import TextEncoding
from portraitgen.systems.consisid.network import ConsisIDNetwork
from portraitgen.systems.consisid.pipeline import ConsisIDPipeline, Face

GOAL_RATIO, GOAL_DIFFERENCE, GUIDANCE, SIZE, FRAMES, WORDS = 1.0, 1e-4, 6.0, (64, 96), 9, 8
BLOCKS = "transformer.transformer_blocks.*.attn1"


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--layers", type=int, default=4)
    given = parser.parse_args()
    network, codec = build(given.layers), PixelVideoCodec(4)
    source = torch.Generator().manual_seed(0)
    face = Face(
        torch.rand(1, 3, 128, 128, generator=source) * 2 - 1,
        torch.randn(1, 1280, generator=source),
        torch.randn(1, 5, 577, 256, generator=source),
    )
    texts = [torch.randn(1, WORDS, 32, generator=source) for _ in range(2)]
    ways: dict[str, Callable[[], Tensor]] = {
        "official": lambda: official(network, codec, face, texts, steps=given.steps),
        "ours": lambda: ours(network, codec, face, texts, steps=given.steps),
    }
    spent: dict[str, list[float]] = {name: [] for name in ways}
    latents: dict[str, Tensor] = {}
    for _ in range(given.rounds):
        for name, draw in ways.items():
            begin = time.process_time()
            with torch.no_grad():
                latents[name] = draw()
            spent[name].append(time.process_time() - begin)
    for name, seconds in spent.items():
        print(f"{name:9} {statistics.median(seconds):.2f} s")
    ratio = statistics.median(spent["official"]) / statistics.median(spent["ours"])
    difference = (latents["official"] - latents["ours"]).abs().max().item()
    print(f"ratio {ratio:.2f}, largest difference {difference:.1e}")
    return 0 if ratio >= GOAL_RATIO and difference <= GOAL_DIFFERENCE else 1


def build(layers: int) -> ConsisIDNetwork:
    torch.manual_seed(0)
    channels = 3 * 4**2 * 4
    network = ConsisIDNetwork(
        transformer={
            "num_attention_heads": 6,
            "attention_head_dim": 64,
            "in_channels": 2 * channels,
            "out_channels": channels,
            "num_layers": layers,
            "time_embed_dim": 128,
            "text_embed_dim": 32,
            "sample_width": SIZE[1] // 4,
            "sample_height": SIZE[0] // 4,
            "sample_frames": FRAMES,
            "use_rotary_positional_embeddings": True,
            "is_train_face": True,
            "cross_attn_num_heads": 4,
            "cross_attn_dim_head": 64,
            "LFE_vit_dim": 256,
            "LFE_num_heads": 4,
            "LFE_output_dim": 256,
        },
        lora={"identity": {"rank": 32, "alpha": 16, "targets": [f"{BLOCKS}.to_[qkv]", f"{BLOCKS}.to_out.0"]}},
    )
    for name, parameter in network.named_parameters():
        if ".lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.05)
    return network.eval()


def scheduler() -> CogVideoXDPMScheduler:
    return CogVideoXDPMScheduler(
        prediction_type="v_prediction", rescale_betas_zero_snr=True, timestep_spacing="trailing"
    )


def ours(
    network: ConsisIDNetwork, codec: PixelVideoCodec, face: Face, texts: list[Tensor], *, steps: int
) -> Tensor:
    pipeline = ConsisIDPipeline(
        network, codec, scheduler=scheduler(), num_steps=steps, guidance_scale=GUIDANCE
    )
    prompt, empty = (TextEncoding(each, torch.ones(1, WORDS, dtype=torch.bool)) for each in texts)
    return pipeline(prompt, empty, face, size=SIZE, num_frames=FRAMES, generator=seeded_generators([0]))


def official(
    network: ConsisIDNetwork, codec: PixelVideoCodec, face: Face, texts: list[Tensor], *, steps: int
) -> Tensor:
    generator = seeded_generators([0])
    picture = codec.encode_image(stretched(face.picture, SIZE), sample=True, generator=generator)
    shape = (codec.num_latents(FRAMES), codec.channels, SIZE[0] // 4, SIZE[1] // 4)
    noise = torch.randn(shape, generator=generator[0])[None]

    def predict(noisy: Tensor, at: Tensor) -> Tensor:
        passes = []
        for text in texts:
            faces = network.face_tokens(face.embedding, face.hidden)
            passes.append(network(noisy, at, text=text, picture=picture, faces=faces))
        wanted, without = passes
        return without + GUIDANCE * (wanted - without)

    return sample(predict, scheduler(), noise, num_steps=steps, generator=generator)


if __name__ == "__main__":
    sys.exit(main())
