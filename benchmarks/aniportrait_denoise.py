"""What AniPortrait's denoising loop costs: the official way of doing it against ours, on the same network.

    python -m benchmarks.aniportrait_denoise [--rounds 5] [--channels 32] [--size 128] [--frames 28]

Both sample the same clip with guidance from the same noise, so their latents must agree.

    official   as upstream's pipeline does it, written plainly: the pose guider on both halves of guidance
               for every window and step; the reference's tokens repeated for every frame and projected to
               keys and values there; reference attention for both halves, after which the unconditional
               half is done again without; a full cross attention to the one token of the image
    ours       AniPortraitPipeline: pose maps and the reference's keys and values once a clip, the
               unconditional half without reference, the cross attention as what it is, one vector

The CPU comparison is of a network with the widths divided by ten, in rounds that take turns; figures are CPU
seconds, medians. Then the operations of one window of 16 frames at full size are counted, without a single
one being done (meta tensors). Where there is a CUDA device, the full-size network with random weights is
timed there, in half precision, eager and compiled.

The goals are a ratio of at least 1.35 and latents within 1e-5. Exits with 1 if one is missed.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from diffusers import AutoencoderKL, DDIMScheduler
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from portraitgen.diffusion.latents import VAECodec
from portraitgen.diffusion.windows import context_windows
from portraitgen.nn.reference_attention import ReferenceFeatures, SpatialTransformer
from portraitgen.nn.unet import Place
from portraitgen.systems.aniportrait.network import AniPortraitNetwork
from portraitgen.systems.aniportrait.pipeline import AniPortraitPipeline

GOAL_RATIO, GOAL_DIFFERENCE = 1.35, 1e-5
WINDOW, OVERLAP, GUIDANCE = 16, 4, 3.5
FULL_WIDTHS = (320, 640, 1280, 1280)


def make_network(
    widths: tuple[int, ...], *, context: int, heads: int, guider_heads: int
) -> AniPortraitNetwork:
    """AniPortrait's shape at other widths, none of whose projections is zero."""
    unet = {
        "block_out_channels": list(widths),
        "attention_head_dim": heads,
        "cross_attention_dim": context,
        "norm_num_groups": 32,
    }
    network = AniPortraitNetwork(
        denoising_unet=unet,
        reference_unet=unet,
        pose_guider={"num_attention_heads": guider_heads},
        motion={"motion_num_attention_heads": heads},
    )
    for name, parameter in network.named_parameters():
        if "final_proj.weight" in name or ("motion_modules" in name and "proj_out.weight" in name):
            nn.init.normal_(parameter, std=0.05)
    return network.eval().requires_grad_(False)


def make_scheduler() -> DDIMScheduler:
    return DDIMScheduler(
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.012,
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
        clip_sample=False,
    )


class Embedding(nn.Module):
    """Stands for the image encoder, whose time is the same for both."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width

    def forward(self, images: Tensor) -> Tensor:
        return torch.linspace(-1, 1, self.width, device=images.device, dtype=images.dtype).expand(
            len(images), 1, -1
        )


def official_features(network: AniPortraitNetwork, latents: Tensor, embedding: Tensor) -> ReferenceFeatures:
    """The reference U-Net on both halves of guidance."""
    both = torch.cat([torch.zeros_like(embedding), embedding])
    return network.encode_reference(latents.repeat(2, 1, 1, 1), both)


def official_window(
    network: AniPortraitNetwork,
    noisy: Tensor,
    timestep: Tensor,
    drawings: Tensor,
    bank: ReferenceFeatures,
    embedding: Tensor,
) -> Tensor:
    """Prediction [2, T, C, h, w] of both halves of guidance, unconditional first, for one window."""
    unet = network.denoising_unet
    num_frames = noisy.shape[1]
    context = torch.cat([torch.zeros_like(embedding), embedding]).repeat_interleave(num_frames, dim=0)
    maps, _ = network.pose_guider.measure(torch.cat([drawings, drawings]).flatten(0, 1))
    tokens_left = iter(bank.tokens)

    def visit(place: Place, hidden: Tensor) -> Tensor:
        if place.spatial is not None:
            hidden = attend(place.spatial, hidden)
        motion = place.modules.get("motion_modules")
        return hidden if motion is None else motion(hidden, num_frames)

    def attend(transformer: SpatialTransformer, hidden: Tensor) -> Tensor:
        height, width = hidden.shape[-2:]
        states = transformer.proj_in(transformer.norm(hidden)).flatten(2).transpose(1, 2)
        for block in transformer.blocks:
            own = block.norm1(states)
            read = torch.cat([own, next(tokens_left).repeat_interleave(num_frames, dim=0)], dim=1)
            attended = block.attn1(own, encoder_hidden_states=read)
            attended[:num_frames] = block.attn1(own[:num_frames])
            states = states + attended
            states = states + block.attn2(block.norm2(states), encoder_hidden_states=context)
            states = states + block.ff(block.norm3(states))
        image = states.transpose(1, 2).unflatten(2, (height, width)).contiguous()
        return hidden + transformer.proj_out(image)

    both = noisy.repeat(2, 1, 1, 1, 1).flatten(0, 1)
    embedding = unet.embed_time(timestep.expand(2), both).repeat_interleave(num_frames, dim=0)
    hidden = unet.walk(both, embedding, visit, pose=maps)
    prediction: Tensor = unet.conv_out(unet.conv_act(unet.conv_norm_out(hidden)))
    return prediction.unflatten(0, (2, num_frames))


@torch.no_grad()
def official_loop(
    network: AniPortraitNetwork,
    latents: Tensor,
    embedding: Tensor,
    drawings: Tensor,
    noise: Tensor,
    num_steps: int,
) -> Tensor:
    """Latents [1, T, C, h, w], from reference latents, image embedding, drawings and noise of one clip."""
    scheduler = make_scheduler()
    scheduler.set_timesteps(num_steps)
    bank = official_features(network, latents, embedding)
    windows = context_windows(noise.shape[1], WINDOW, OVERLAP)
    clip = noise
    for timestep in scheduler.timesteps:
        predicted = torch.zeros_like(clip.repeat(2, 1, 1, 1, 1))
        counter = torch.zeros(clip.shape[1], device=clip.device)
        for window in windows:
            predicted[:, window] += official_window(
                network, clip[:, window], timestep.to(clip.device), drawings[:, window], bank, embedding
            )
            counter[window] += 1
        without, given = (predicted / counter.view(1, -1, 1, 1, 1)).chunk(2)
        clip = scheduler.step(without + GUIDANCE * (given - without), timestep, clip).prev_sample
    return clip


def our_window(
    network: AniPortraitNetwork, noisy: Tensor, timestep: Tensor, maps: Any, kept: Any, embedding: Tensor
) -> Tensor:
    """What `AniPortraitPipeline` does for a window at a step: both predictions."""
    time = timestep.expand(1)
    without = network(noisy, time, reference=None, pose=maps, image_embeds=torch.zeros_like(embedding))
    given = network(noisy, time, reference=kept, pose=maps, image_embeds=embedding)
    return torch.cat([without, given])


def compare_on_cpu(arguments: argparse.Namespace) -> bool:
    """Print CPU seconds of both, their ratio and the largest difference; whether both goals are met."""
    torch.manual_seed(0)
    channels = arguments.channels
    widths = (channels, 2 * channels, 4 * channels, 4 * channels)
    network = make_network(widths, context=96, heads=8, guider_heads=2)
    vae = AutoencoderKL(
        block_out_channels=(4, 4, 4, 4),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        norm_num_groups=4,
    )
    pipeline = AniPortraitPipeline(
        network,
        VAECodec(vae),
        scheduler=make_scheduler(),
        image_encoder=Embedding(96),  # type: ignore[arg-type]
        num_steps=arguments.steps,
        guidance_scale=GUIDANCE,
        window_frames=WINDOW,
        window_overlap=OVERLAP,
        pose_stats="window",
    )
    reference = torch.rand(1, 3, arguments.size, arguments.size) * 2 - 1
    drawings = torch.randint(0, 256, (1, arguments.frames, 3, arguments.size, arguments.size)) / 127.5 - 1
    latents = pipeline.codec.encode(reference)
    noise = torch.randn(1, arguments.frames, *latents.shape[1:], generator=torch.Generator().manual_seed(1))

    def official() -> Tensor:
        embedding = pipeline.embed_image(reference)
        return official_loop(network, latents, embedding, drawings, noise, arguments.steps)

    def ours() -> Tensor:
        return pipeline.sample_latents(reference, drawings, generator=torch.Generator().manual_seed(1))

    loops: dict[str, Callable[[], Tensor]] = {"official": official, "ours": ours}
    rounds: dict[str, list[float]] = {name: [] for name in loops}
    results: dict[str, Tensor] = {}
    for _ in range(arguments.rounds):
        for name, loop in loops.items():
            begin = time.process_time()
            results[name] = loop()
            rounds[name].append(time.process_time() - begin)
    windows = len(context_windows(arguments.frames, WINDOW, OVERLAP))
    print(
        f"{arguments.frames} frames of {arguments.size}x{arguments.size} in {windows} windows, "
        f"{arguments.steps} steps, widths {widths}, one thread"
    )
    medians = {name: statistics.median(values) for name, values in rounds.items()}
    for name, median in medians.items():
        print(f"{name:10}{median:8.2f} CPU-s    {'  '.join(f'{value:.2f}' for value in rounds[name])}")
    ratio = medians["official"] / medians["ours"]
    difference = (results["official"] - results["ours"]).abs().max().item()
    print(f"official / ours {ratio:.2f} (goal >= {GOAL_RATIO}): {'met' if ratio >= GOAL_RATIO else 'MISSED'}")
    print(
        f"largest difference {difference:.1e} of latents up to {results['ours'].abs().max():.1f} "
        f"(goal <= {GOAL_DIFFERENCE:.0e}): {'met' if difference <= GOAL_DIFFERENCE else 'MISSED'}\n"
    )
    return ratio >= GOAL_RATIO and difference <= GOAL_DIFFERENCE


def count_full_size() -> None:
    """Print the operations of a window of 16 frames of 512x512 at full size, a multiplication as two."""
    with torch.device("meta"):
        network = make_network(FULL_WIDTHS, context=768, heads=8, guider_heads=16)
        noisy, drawings = torch.empty(1, WINDOW, 4, 64, 64), torch.empty(1, WINDOW, 3, 512, 512)
        latents, embedding, timestep = torch.empty(1, 4, 64, 64), torch.empty(1, 1, 768), torch.empty(())

        def count(work: Callable[[], Any]) -> tuple[float, Any]:
            with FlopCounterMode(display=False) as counter, torch.no_grad():
                result = work()
            return counter.get_total_flops() / 1e12, result

        reference_both, bank = count(lambda: official_features(network, latents, embedding))
        official, _ = count(lambda: official_window(network, noisy, timestep, drawings, bank, embedding))
        guider, maps = count(lambda: network.encode_pose(drawings))
        reference, kept = count(
            lambda: network.project_reference(network.encode_reference(latents, embedding))
        )
        ours, _ = count(lambda: our_window(network, noisy, timestep, maps, kept, embedding))
    print("full size, 16 frames of 512x512, TFLOP      official    ours")
    print(f"a window at a step                          {official:8.2f}{ours:8.2f}   {official / ours:.2f}x")
    print(f"once a window                               {'-':>8}{guider:8.2f}   pose maps")
    print(f"once a clip                                 {reference_both:8.2f}{reference:8.2f}   reference\n")


def time_on_cuda() -> None:
    """Print time and memory of a window at a step of the full-size network, eager and compiled."""
    device = torch.device("cuda")
    print(f"{torch.cuda.get_device_name()}, full size, half precision, random weights")
    with device:
        network = make_network(FULL_WIDTHS, context=768, heads=8, guider_heads=16).half()
        noisy = torch.randn(1, WINDOW, 4, 64, 64, dtype=torch.half)
        drawings = torch.rand(1, WINDOW, 3, 512, 512, dtype=torch.half)
        latents = torch.randn(1, 4, 64, 64, dtype=torch.half)
        embedding = torch.randn(1, 1, 768, dtype=torch.half)
        timestep = torch.tensor(500)

    def seconds(work: Callable[[], Any], repeats: int = 5) -> float:
        times = []
        for _ in range(repeats + 2):
            torch.cuda.synchronize()
            begin = time.perf_counter()
            work()
            torch.cuda.synchronize()
            times.append(time.perf_counter() - begin)
        return statistics.median(times[2:])

    with torch.no_grad():
        bank = official_features(network, latents, embedding)
        kept = network.project_reference(network.encode_reference(latents, embedding))
        maps = network.encode_pose(drawings)
        compiled = torch.compile(our_window)
        for name, work in (
            ("official", lambda: official_window(network, noisy, timestep, drawings, bank, embedding)),
            ("ours", lambda: our_window(network, noisy, timestep, maps, kept, embedding)),
            ("ours, compiled", lambda: compiled(network, noisy, timestep, maps, kept, embedding)),
        ):
            torch.cuda.reset_peak_memory_stats()
            took = seconds(work)
            memory = torch.cuda.max_memory_allocated() / 2**30
            print(f"{name:16}{took * 1000:8.1f} ms a window and step{memory:8.2f} GiB at most")


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--channels", type=int, default=32, help="of the first level")
    parser.add_argument("--size", type=int, default=128, help="side of the pictures")
    parser.add_argument("--frames", type=int, default=28)
    parser.add_argument("--steps", type=int, default=3)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    met = compare_on_cpu(arguments)
    count_full_size()
    if torch.cuda.is_available():
        time_on_cuda()
    else:
        print("no CUDA device: the full-size network is not timed")
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
