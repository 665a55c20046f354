"""What Loopy's denoising loop costs: three plain passes against ours, on the same network; and its size.

    python -m benchmarks.loopy_denoise [--rounds 3] [--channels 32] [--size 64] [--steps 3]

Both sample the same clip with a reference, motion frames, sound and the paper's guidance (3, 5) from the same
noise, so their latents must agree.

    naive   at every step three predictions one after the other, each with the reference network run anew over
            the reference and the motion frames, its keys and values projected, and the sound heard anew
    ours    LoopyPipeline: the reference network once a clip, what is made of it and of the sound once, the
            three passes of a step in one batch

The comparison is of a network with the widths divided by ten, in rounds that take turns; figures are CPU
seconds, medians. Then parameters and the operations of one training step and one sampling step at full size
are counted, without a single one being done (meta tensors).

The goals are a ratio of at least 1.8 and latents within 1e-3 of the largest. Exits with 1 if one is missed.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from diffusers import DDIMScheduler
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from portraitgen.diffusion.latents import PixelCodec
from portraitgen.diffusion.sampling import sample
from portraitgen.systems.loopy.network import LoopyNetwork
from portraitgen.systems.loopy.pipeline import LoopyPipeline

GOAL_RATIO, GOAL_DIFFERENCE = 1.8, 1e-3
CLIP, MOTION, AUDIO = 12, 20, (5, 12, 768)
FULL_WIDTHS = (320, 640, 1280, 1280)


def make_network(widths: tuple[int, ...], *, context: int, heads: int, channels: int) -> LoopyNetwork:
    """Loopy's shape at other widths, none of whose projections is zero."""
    unet = {
        "in_channels": channels,
        "out_channels": channels,
        "block_out_channels": list(widths),
        "attention_head_dim": heads,
        "cross_attention_dim": context,
        "norm_num_groups": 32,
    }
    network = LoopyNetwork(
        denoising_unet=unet,
        reference_unet=unet,
        temporal={"num_attention_heads": heads},
        audio={"num_attention_heads": heads},
        motion_latents={"num_landmarks": 68},
    )
    for parameter in network.parameters():
        if not parameter.is_meta and not parameter.any():
            nn.init.normal_(parameter, std=0.05)
    return network.eval().requires_grad_(False)


def make_scheduler() -> DDIMScheduler:
    return DDIMScheduler(beta_schedule="scaled_linear", prediction_type="sample", clip_sample=False)


def naive(
    network: LoopyNetwork, reference: Tensor, motion: Tensor, audio: Tensor, noise: Tensor, steps: int
) -> Tensor:
    """The clip by three plain passes a step."""

    def predict_pass(noisy: Tensor, time: Tensor, *, seen: bool, heard: bool) -> Tensor:
        context = network.read(reference, motion)
        tokens = network.hear(audio if heard else torch.zeros_like(audio))
        latents = network.latents_of_motion(tokens)
        assert latents is not None
        keep = torch.tensor([seen])
        return network(
            noisy,
            time,
            context,
            tokens=tokens,
            motion_latents=latents if heard else torch.zeros_like(latents),
            keep_reference=keep,
            keep_motion=keep,
        )

    def predict(noisy: Tensor, time: Tensor) -> Tensor:
        base = predict_pass(noisy, time, seen=False, heard=False)
        shown = predict_pass(noisy, time, seen=True, heard=False)
        full = predict_pass(noisy, time, seen=True, heard=True)
        return 5 * (full - shown) + 3 * (shown - base) + base

    return sample(predict, make_scheduler(), noise, num_steps=steps)


def ours(pipeline: LoopyPipeline, reference: Tensor, motion: Tensor, audio: Tensor, noise: Tensor) -> Tensor:
    """The clip as `LoopyPipeline` draws one in the middle of a chain."""
    context = pipeline.network.read(reference, motion)
    predict = pipeline._predictor(context, audio)
    return sample(predict, pipeline.scheduler, noise, num_steps=pipeline.num_steps)


def cpu_seconds(work: Callable[[], Tensor]) -> tuple[float, Tensor]:
    start = time.process_time()
    result = work()
    return time.process_time() - start, result


@torch.no_grad()
def compare(*, rounds: int, channels: int, size: int, steps: int) -> bool:
    """Print what both cost; whether the goals are met."""
    torch.manual_seed(0)
    widths = (channels, 2 * channels, 4 * channels, 4 * channels)
    network = make_network(widths, context=96, heads=8, channels=4)
    side = size // 8
    reference, motion = torch.randn(1, 4, side, side), torch.randn(1, MOTION, 4, side, side)
    audio, noise = torch.randn(1, CLIP, *AUDIO), torch.randn(1, CLIP, 4, side, side)
    pipeline = LoopyPipeline(network, PixelCodec(2), scheduler=make_scheduler(), num_steps=steps)
    spent: dict[str, list[float]] = {"naive": [], "ours": []}
    results: dict[str, Tensor] = {}
    ways: dict[str, Callable[[], Tensor]] = {
        "naive": lambda: naive(network, reference, motion, audio, noise, steps),
        "ours": lambda: ours(pipeline, reference, motion, audio, noise),
    }
    for _ in range(rounds):
        for name, work in ways.items():
            seconds, results[name] = cpu_seconds(work)
            spent[name].append(seconds)
    medians = {name: statistics.median(values) for name, values in spent.items()}
    ratio = medians["naive"] / medians["ours"]
    difference = float((results["naive"] - results["ours"]).abs().max() / results["naive"].abs().max())
    print(
        f"naive {medians['naive']:.2f} s, ours {medians['ours']:.2f} s: ratio {ratio:.2f} (goal {GOAL_RATIO})"
    )
    print(f"largest difference {difference:.1e} of the largest latent (goal {GOAL_DIFFERENCE:.0e})")
    return ratio >= GOAL_RATIO and difference <= GOAL_DIFFERENCE


def full_size() -> None:
    """Parameters, memory of training, and operations of a step at full size."""
    with torch.device("meta"):
        network = make_network(FULL_WIDTHS, context=768, heads=8, channels=4)
        inputs: dict[str, Any] = {
            "reference": torch.empty(1, 4, 64, 64),
            "motion": torch.empty(1, MOTION, 4, 64, 64),
            "audio": torch.empty(1, CLIP, *AUDIO),
            "noisy": torch.empty(1, CLIP, 4, 64, 64),
            "time": torch.empty(1, dtype=torch.int64),
        }
        network.requires_grad_(True)
        print(f"{'':16}{'parameters':>12}")
        places = [place.modules for place in network.denoising_unet.places]
        layers = {
            kind: sum(each.numel() for place in places for each in place[kind].parameters())
            for kind in places[0]
        }
        spatial = sum(each.numel() for each in network.denoising_unet.parameters()) - sum(layers.values())
        parts = {"denoising U-Net": spatial, **layers}
        for name in ("reference_unet", "audio_tokens", "motion_latents"):
            parts[name] = sum(each.numel() for each in getattr(network, name).parameters())
        for name, count in parts.items():
            print(f"{name:16}{count / 1e6:10.1f} M")
        total = sum(parts.values())
        print(
            f"{'total':16}{total / 1e6:10.1f} M; AdamW in float32: {16 * total / 1e9:.1f} GB of weights, "
            f"gradients and moments; with ZeRO-2 over 24 GPUs {(4 + 12 / 24) * total / 1e9:.1f} GB each"
        )

        def predict(times: int) -> Tensor:
            context = network.read(inputs["reference"], inputs["motion"]).repeated(times)
            tokens = network.hear(inputs["audio"].repeat(times, 1, 1, 1, 1))
            latents = network.latents_of_motion(tokens)
            keep = torch.ones(times, dtype=torch.bool)
            return network(
                inputs["noisy"].repeat(times, 1, 1, 1, 1),
                inputs["time"].repeat(times),
                context,
                tokens=tokens,
                motion_latents=latents,
                keep_reference=keep,
                keep_motion=keep,
            )

        for what, run in (
            ("training, one clip forward and backward", lambda: predict(1).sum().backward()),
            ("sampling, the context and one step of three passes", lambda: torch.no_grad()(predict)(3)),
            ("the context alone", lambda: network.read(inputs["reference"], inputs["motion"])),
        ):
            with FlopCounterMode(display=False) as counter:
                run()
            print(f"{what}: {counter.get_total_flops() / 1e12:.1f} TFLOP")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--channels", type=int, default=32)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--steps", type=int, default=3)
    given = parser.parse_args()
    full_size()
    sys.exit(0 if compare(**vars(given)) else 1)


if __name__ == "__main__":
    main()
