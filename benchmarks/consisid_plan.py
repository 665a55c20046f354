"""What ConsisID costs at full size, counted on the meta device: no weights, no GPU.

    python -m benchmarks.consisid_plan [--gpus 8] [--utilisation 0.4]

Floating-point operations are those of matrix products and attention in a forward pass of one sample, as
PyTorch counts them. A step with gradient checkpointing is counted as four of them where all trains (forward,
again for the gradient, and two for the gradients of inputs and weights), as three where next to nothing of
the transformer does. Memory is what ZeRO-2 keeps on each GPU (weights in bfloat16; gradients in bfloat16 and
masters and two moments in float32, shared out) and the inputs of the blocks, which checkpointing keeps; what
a block needs while it is computed again comes on top. Times are operations over what an H100 can (989 TFLOP/s
in bfloat16) at the given utilisation: expected, not measured.
"""

import argparse
from dataclasses import dataclass

import torch
from torch.utils.flop_counter import FlopCounterMode

from portraitgen.systems.consisid.host import Host
from portraitgen.systems.consisid.network import ConsisIDNetwork
from portraitgen.systems.consisid.wan.network import WanNetwork

H100 = 989e12
GIGA, TERA = 1e9, 1e12
COGVIDEOX = {
    "num_attention_heads": 48,
    "attention_head_dim": 64,
    "in_channels": 32,
    "out_channels": 16,
    "num_layers": 42,
    "time_embed_dim": 512,
    "text_embed_dim": 4096,
    "sample_width": 90,
    "sample_height": 60,
    "sample_frames": 49,
    "use_rotary_positional_embeddings": True,
    "use_learned_positional_embeddings": True,
}
WAN = {"num_attention_heads": 12, "attention_head_dim": 128, "ffn_dim": 8960, "num_layers": 30}
IDENTITY = ("local_facial_extractor", "perceiver_cross_attention", "face_attention", "face_gate", ".lora_")


@dataclass(frozen=True)
class Case:
    """A training: the network, and the shape of a sample's latents and text."""

    name: str
    network: Host
    latents: tuple[int, int, int, int]
    words: int
    all_trains: bool

    @property
    def depth(self) -> int:
        return int(self.network.config["num_layers"])

    @property
    def tokens(self) -> int:
        frames, _, height, width = self.latents
        return frames * (height // 2) * (width // 2) + self.words


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--gpus", type=int, default=8)
    parser.add_argument("--utilisation", type=float, default=0.4)
    given = parser.parse_args()
    for case in cases():
        print_plan(case, gpus=given.gpus, utilisation=given.utilisation)


def cases() -> list[Case]:
    blocks = "transformer.transformer_blocks.*.attn1"
    adapter = {"rank": 128, "alpha": 128, "targets": [f"{blocks}.to_[qkv]", f"{blocks}.to_out.0"]}
    on_wan = {"rank": 128, "alpha": 128, "targets": ["transformer.blocks.*.attn1.to_[qkv]"]}
    on_wan["targets"] = [*on_wan["targets"], "transformer.blocks.*.attn1.to_out.0"]  # type: ignore[misc]
    with torch.device("meta"):
        without = ConsisIDNetwork(transformer=COGVIDEOX)
        whole = ConsisIDNetwork(transformer={**COGVIDEOX, "is_train_face": True}, lora={"identity": adapter})
        wan = WanNetwork(transformer=WAN, face={"heads": 12}, lora={"identity": on_wan})
    clip = (13, 16, 60, 90)
    return [
        Case("consisid/global, 49 frames of 480x720", without, clip, 226, True),
        Case("consisid/identity, 49 frames of 480x720", whole, clip, 226, False),
        Case("consisid/wan_stage2 (1.3B), 81 frames of 480x832", wan, (21, 16, 60, 104), 512, False),
    ]


def forward_operations(case: Case) -> float:
    network = case.network
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        faces = None
        if network.extractor is not None:
            faces = network.face_tokens(torch.empty(1, 1280), torch.empty(1, 5, 577, 1024))
        network(
            torch.empty(1, *case.latents),
            torch.zeros(1),
            text=torch.empty(1, case.words, network.text_dim),
            faces=faces,
        )
    return float(counter.get_total_flops())


def print_plan(case: Case, *, gpus: int, utilisation: float) -> None:
    named = dict(case.network.named_parameters())
    trained = sum(
        p.numel() for n, p in named.items() if case.all_trains or any(part in n for part in IDENTITY)
    )
    weights = sum(p.numel() for p in named.values())
    with torch.no_grad():
        forward = forward_operations(case)
    step = forward * (4 if case.all_trains else 3)
    width = case.network.config["num_attention_heads"] * case.network.config["attention_head_dim"]
    kept = 2 * case.depth * case.tokens * width
    states = (2 + 12) * trained / gpus
    print(f"{case.name}")
    print(f"  parameters {weights:,}, of which {trained:,} train")
    print(f"  forward {forward / TERA:.1f} TFLOP, step {step / TERA:.0f} TFLOP a sample")
    print(
        f"  memory a GPU of {gpus}: weights {2 * weights / GIGA:.1f} GB, gradients and optimizer "
        f"{states / GIGA:.1f} GB, inputs of {case.depth} blocks {kept / GIGA:.1f} GB a sample: "
        f"{(2 * weights + states + kept) / GIGA:.1f} GB and what one block needs"
    )
    print(
        f"  expected on H100 at {utilisation:.0%}: {step / (H100 * utilisation):.1f} s a sample; "
        f"50 steps of guided sampling {100 * forward / (H100 * utilisation):.0f} s"
    )


if __name__ == "__main__":
    main()
