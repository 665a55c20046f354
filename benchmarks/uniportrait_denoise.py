"""What UniPortrait's attention costs in denoising: the official way against ours, on one network.

    python -m benchmarks.uniportrait_denoise [--rounds 3] [--steps 3] [--channels 160] [--size 32]

Both sample the same picture of several people with guidance from the same noise, so their latents must agree.

    official   as upstream's attention processor does it, written plainly: people's keys and values, and the
               router's keys, at every step from tokens that do not change; a loop over people, all of whom
               are attended to everywhere, and one-hot maps; LoRA as two more products in every projection
    ours       UniPortraitPipeline: these keys and values, and the text's, once a picture; the last layer of
               the router's queries in its keys; one attention to the person that the router chose, and no
               router in the unconditional half, where all are nobody; adapters merged into the weights

Timed are the attention layers of the U-Net with their projections and adapters, which are what the two ways
do differently, and beside them the whole loop, most of which is convolutions and feed-forward layers that
both have alike. Seconds are those of a picture of 25 steps: 25 times the median step, and of ours the merging
of the adapters, done once. The ways take turns; on a CPU, CPU seconds. Where there is a CUDA device, the
network is timed there at full size too, in half precision. The goals are a ratio of at least 1.3 of the
attention layers, and latents within 1e-5 of their largest. Exits with 1 if one is missed.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from diffusers import DDIMScheduler
from diffusers.models.attention_processor import Attention
from torch import Tensor, nn

from portraitgen.diffusion.latents import PixelCodec
from portraitgen.diffusion.sampling import sample
from portraitgen.nn.decoupled_attention import Branches, DecoupledAttention
from portraitgen.nn.text.encoding import TextEncoding
from portraitgen.systems.uniportrait.features import untrained_features
from portraitgen.systems.uniportrait.network import UniPortraitNetwork
from portraitgen.systems.uniportrait.pipeline import UniPortraitPipeline

GOAL_RATIO, GOAL_DIFFERENCE = 1.3, 1e-5
GUIDANCE, SCALE, WORDS, TOKENS = 7.5, 0.7, 77, 16
PICTURE_STEPS = 25
FULL_WIDTHS = (320, 640, 1280, 1280)
TARGETS = ["unet.*.attn[12].to_[qkv]", "unet.*.attn[12].to_out.0"]


class OfficialProcessor(nn.Module):
    """Cross attention as upstream has it, with the weights of ours."""

    def __init__(self, ours: DecoupledAttention) -> None:
        super().__init__()
        self.ours = ours

    def forward(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: tuple[Tensor, Branches],
        attention_mask: Tensor | None = None,
    ) -> Tensor:
        text, branches = encoder_hidden_states
        ours, people = self.ours, branches.people

        def heads(states: Tensor) -> Tensor:
            return states.unflatten(-1, (attn.heads, -1)).transpose(1, 2)

        def attended(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
            return F.scaled_dot_product_attention(query, heads(key), heads(value)).transpose(1, 2).flatten(2)

        query = heads(attn.to_q(hidden_states))
        found = attended(query, attn.to_k(text), attn.to_v(text))
        wanted = ours.to_q_router(hidden_states)
        offered = ours.to_k_router(ours.aggr_router(people.mT).squeeze(-1))
        logits = wanted @ offered.mT
        maps = F.one_hot(logits.argmax(dim=-1), people.shape[1]).to(found)
        routed = torch.zeros_like(found)
        for number in range(people.shape[1]):
            tokens = people[:, number]
            one = attended(query, ours.to_k_faceid(tokens), ours.to_v_faceid(tokens))
            routed = routed + maps[..., number, None] * one
        linear, dropout = attn.to_out
        return dropout(linear(found + branches.people_scale * routed))


def make_network(widths: tuple[int, ...], *, context: int, heads: int, rank: int) -> UniPortraitNetwork:
    """UniPortrait's shape at these widths, none of whose parts has no effect."""
    torch.manual_seed(0)
    lora = {"rank": rank, "alpha": rank, "targets": TARGETS}
    network = UniPortraitNetwork(
        unet={
            "block_out_channels": list(widths),
            "attention_head_dim": heads,
            "cross_attention_dim": context,
            "norm_num_groups": 32,
        },
        resampler={"intrinsic_dim": 128, "structure_dim": 128, "dim": context, "depth": 1, "heads": 2},
        router={},
        lora={"single_id": lora, "multi_id": lora},
    )
    for name, parameter in network.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.02)
    return network.eval().requires_grad_(False)


def make_scheduler() -> DDIMScheduler:
    return DDIMScheduler(
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.012,
        steps_offset=1,
        clip_sample=False,
        set_alpha_to_one=False,
    )


@torch.no_grad()
def official_loop(
    network: UniPortraitNetwork,
    text: Tensor,
    negative: Tensor,
    people: tuple[Tensor, Tensor],
    noise: Tensor,
    *,
    steps: int,
) -> Tensor:
    network.adapt_to(people[0].shape[1])
    processors = dict(network.unet.attn_processors)
    network.unet.set_attn_processor(
        {
            name: OfficialProcessor(each) if isinstance(each, DecoupledAttention) else each
            for name, each in processors.items()
        }
    )
    read, tokens = torch.cat([negative, text]), torch.cat([people[1], people[0]])

    def predict(noisy: Tensor, time: Tensor) -> Tensor:
        branches = Branches(tokens, people_scale=SCALE)
        without, wanted = network(
            noisy.repeat(2, 1, 1, 1), time.repeat(2), text=read, branches=branches
        ).chunk(2)
        return without + GUIDANCE * (wanted - without)

    try:
        return sample(predict, make_scheduler(), noise, num_steps=steps)
    finally:
        network.unet.set_attn_processor(processors)


def now() -> float:
    """CPU seconds, or those of the clock when the GPU has done its work."""
    if not torch.cuda.is_available():
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


class StepTimes:
    """Seconds of each denoising step: of the attention layers, and of the whole U-Net."""

    def __init__(self) -> None:
        self.attention: list[float] = []
        self.whole: list[float] = []

    @contextmanager
    def of(self, unet: nn.Module) -> Iterator[None]:
        """Time the steps inside the block."""
        begun: dict[nn.Module, float] = {}

        def begin(layer: nn.Module, _: object) -> None:
            begun[layer] = now()
            if layer is unet:
                self.attention.append(0.0)

        def end(layer: nn.Module, _: object, __: object) -> None:
            spent = now() - begun[layer]
            if layer is unet:
                self.whole.append(spent)
            else:
                self.attention[-1] += spent

        layers = [unet, *(each for each in unet.modules() if isinstance(each, Attention))]
        hooks = [layer.register_forward_pre_hook(begin) for layer in layers]
        hooks += [layer.register_forward_hook(end) for layer in layers]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()


def seconds(work: Callable[[], object]) -> float:
    begin = now()
    work()
    return now() - begin


def compare(
    network: UniPortraitNetwork, *, side: int, people: int, steps: int, rounds: int
) -> tuple[float, float]:
    """Ratio of the attention layers, and the largest difference of the latents, a share of their largest."""
    device, dtype = next(network.parameters()).device, network.unet.dtype
    source = torch.Generator().manual_seed(1)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=source).to(device)

    width = network.unet.config["cross_attention_dim"]
    text, negative = draw(1, WORDS, width), draw(1, WORDS, width)
    nobody = draw(1, 1, TOKENS, width).to(dtype).expand(-1, people, -1, -1)
    tokens = draw(1, people, TOKENS, width).to(dtype), nobody
    noise = draw(1, 4, side, side)
    seen = torch.ones(1, WORDS, dtype=torch.bool, device=device)
    pipeline = UniPortraitPipeline(
        network,
        PixelCodec(1),
        scheduler=make_scheduler(),
        features=untrained_features(),
        num_steps=steps,
        guidance_scale=GUIDANCE,
        people_scale=SCALE,
    )

    @torch.no_grad()
    def ours() -> Tensor:
        return pipeline.sample_latents(TextEncoding(text, seen), TextEncoding(negative, seen), tokens, noise)

    def merging() -> None:
        with network.adapted_to(people):
            pass

    ways: dict[str, Callable[[], Tensor]] = {
        "official": lambda: official_loop(network, text, negative, tokens, noise, steps=steps),
        "ours": ours,
    }
    times = {name: StepTimes() for name in ways}
    latents = {}
    once = {"official": 0.0, "ours": statistics.median(seconds(merging) for _ in range(3))}
    for _ in range(rounds):
        for name, work in ways.items():
            with times[name].of(network.unet):
                latents[name] = work()
    widths = network.unet.config["block_out_channels"]
    print(f"{people} people, {side}x{side} latents, channels {widths}, {device.type}:")
    ratios = {}
    for part in ("attention", "whole"):
        spent = {
            name: PICTURE_STEPS * statistics.median(getattr(times[name], part)) + once[name] for name in ways
        }
        ratios[part] = spent["official"] / spent["ours"]
        print(
            f"  {part}: official {spent['official']:.2f} s a picture, ours {spent['ours']:.2f} s, "
            f"ratio {ratios[part]:.2f}"
        )
    difference = ((latents["official"] - latents["ours"]).abs().max() / latents["ours"].abs().max()).item()
    print(f"  latents differ by {difference:.1e}")
    return ratios["attention"], difference


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--channels", type=int, default=160)
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--people", type=int, default=2)
    given = parser.parse_args()
    scale = given.channels / FULL_WIDTHS[0]
    widths = tuple(round(scale * width) for width in FULL_WIDTHS)
    network = make_network(widths, context=round(scale * 768), heads=8, rank=round(scale * 128))
    size = {"people": given.people, "steps": given.steps, "rounds": given.rounds}
    ratio, difference = compare(network, side=given.size, **size)
    if torch.cuda.is_available():
        full = make_network(FULL_WIDTHS, context=768, heads=8, rank=128)
        compare(full.to("cuda", torch.float16), side=64, **size)
    return int(ratio < GOAL_RATIO or difference > GOAL_DIFFERENCE)


if __name__ == "__main__":
    sys.exit(main())
