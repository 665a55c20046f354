"""Which frozen networks a training step of ConsisID runs: none where all is stored. Part of
benchmarks/consisid_step.

Features have the shapes of full size. The networks that would compute them are of the real classes and small,
and so is the transformer, which sees patches of 6x6 latents.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from diffusers import CogVideoXDPMScheduler
from lightning.pytorch import Trainer
from torch import nn
from torch.nn.modules.module import register_module_forward_pre_hook

from portraitgen.diffusion.conditions import ConditionDropout
from portraitgen.diffusion.image_condition import ReferenceNoise
from portraitgen.diffusion.objective import DiffusionObjective
from portraitgen.diffusion.video_latents import CogVideoXCodec
from portraitgen.faces.conditioner import untrained_conditioner
from portraitgen.nn.text.prompts import Prompts
from portraitgen.nn.text.t5 import T5Text
from portraitgen.systems.consisid.module import ConsisID
from portraitgen.systems.consisid.network import ConsisIDNetwork
from portraitgen.systems.consisid.pipeline import ConsisIDPipeline
from tests.nn.text.folders import save_t5
from tests.tiny_vae import tiny_cogvideox

WORDS, TEXT_DIM = 226, 4096
STORED = ("face_latent_distribution", "prompt_embeds", "face_embedding")


def check(batch: dict[str, Any], folder: Path) -> bool:
    """Print what a step on a batch of stored features runs, and what it runs without them; whether the first
    is nothing, and the second all three networks.

    Args:
        batch: of the loader, on the device; see `to_floats`.
        folder: for a text encoder.
    """
    module = build(folder)
    parts: dict[str, nn.Module] = {
        "VAE": module.codec,
        "EVA-CLIP": module.face_condition.looks,
        "recogniser": module.face_condition.recognizer,
        "T5": module.prompts.encoder.model,
    }
    print(f"\n{'modules that a step runs':26}" + "".join(f"{name:>12}" for name in parts))
    cached = ran(parts, lambda: module.losses(batch, step=0, training=True)["loss"].backward())
    assert all(each.grad is not None for each in module.network.extractor.parameters()), "no step was made"
    print(f"{'everything stored':26}" + "".join(f"{count:12}" for count in cached.values()))
    missing = {name: value for name, value in batch.items() if name not in STORED} | {
        "caption": ["a man talks about the sea"],
        "reference": torch.zeros(1, 3, 480, 720),
        "reference_landmarks": torch.rand(1, 68, 2) * 200 + 100,
    }
    computed = ran(parts, lambda: module.encode(missing))
    print(f"{'nothing of faces, prompts':26}" + "".join(f"{count:12}" for count in computed.values()))
    held = not any(cached.values()) and all(computed.values())
    print(f"a cached step runs no T5, VAE or EVA-CLIP: {'held' if held else 'BROKEN'}")
    return held


def ran(parts: dict[str, nn.Module], work: Callable[[], object]) -> dict[str, int]:
    """How many modules of each part take part in some work."""
    with called() as modules:
        work()
    return {name: sum(each in modules for each in part.modules()) for name, part in parts.items()}


@contextmanager
def called() -> Iterator[set[nn.Module]]:
    """The modules whose forward is called meanwhile."""
    found: set[nn.Module] = set()
    hook = register_module_forward_pre_hook(lambda module, _: found.add(module))
    try:
        yield found
    finally:
        hook.remove()


def build(folder: Path) -> ConsisID:
    vae = tiny_cogvideox(latent_channels=16)
    scheduler = CogVideoXDPMScheduler(
        prediction_type="v_prediction", rescale_betas_zero_snr=True, timestep_spacing="trailing"
    )
    network = ConsisIDNetwork(
        transformer={
            "num_attention_heads": 3,
            "attention_head_dim": 64,
            "in_channels": 32,
            "out_channels": 16,
            "num_layers": 2,
            "time_embed_dim": 32,
            "text_embed_dim": TEXT_DIM,
            "patch_size": 6,
            "use_rotary_positional_embeddings": True,
            "is_train_face": True,
            "cross_attn_num_heads": 2,
            "cross_attn_dim_head": 64,
            "LFE_output_dim": 128,
            "LFE_num_heads": 2,
            "LFE_depth": 5,
        }
    )
    module = ConsisID(
        network,
        CogVideoXCodec(vae),
        DiffusionObjective(scheduler, mask_probability=0.5),
        sampling=lambda *given, **settings: ConsisIDPipeline(*given, scheduler=scheduler, **settings),
        optimizer=torch.optim.AdamW,
        condition_dropout=ConditionDropout({"text": {"probability": 1.0, "drop": ["text"]}}),
        prompts=Prompts(T5Text.from_pretrained(str(save_t5(folder)), max_tokens=WORDS)),
        reference_noise=ReferenceNoise(),
        gradient_checkpointing=True,
    )
    module.face_condition = untrained_conditioner()
    module.trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    return module.train()
