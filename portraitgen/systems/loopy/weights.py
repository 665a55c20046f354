"""What Loopy starts from: Stable Diffusion 1.5 for both U-Nets, AnimateDiff for both temporal layers.

The paper names neither; these are what its peers start from. Loopy itself was never published.
"""

from torch import Tensor, nn

from portraitgen.systems.loopy.network import INTER, INTRA
from portraitgen.training.public_unets import (
    from_published_name,
    position_tables,
    read_stable_diffusion,
    read_tensors,
)
from portraitgen.training.published import Kind


def publish(network: nn.Module) -> dict[str, dict[str, Tensor]]:
    """There is no published layout.

    Raises:
        ValueError: always.
    """
    raise ValueError("Loopy was never published, so there is no layout but that of our weights files")


def from_animatediff(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Motion modules of a checkpoint of AnimateDiff, once as inter-clip and once as intra-clip layers.

    Tables of positions are left out: ours are learned, and start as theirs are.
    """
    found = {}
    for name, value in tensors.items():
        ours = from_published_name(name) if ".motion_modules." in name else None
        if ours is not None:
            for kind in (INTER, INTRA):
                renamed = ours.replace(".motion_modules.", f".{kind}.")
                found[f"denoising_unet.{renamed}"] = (
                    value.clone()
                )  # safetensors stores none that share memory
    return found


def _read_animatediff(source: str) -> dict[str, Tensor]:
    hint = "mm_sd_v15_v2.ckpt is guoyww/animatediff on the hub (Apache-2.0)"
    return from_animatediff(read_tensors(source, hint=hint))


KINDS = {
    "loopy_stable_diffusion": Kind(
        "Stable Diffusion 1.5, a file or a folder of diffusers: what stage 1 starts from",
        read_stable_diffusion,
        "loopy/stage1",
        gives=("denoising_unet.*", "reference_unet.*"),
    ),
    "loopy_animatediff": Kind(
        "AnimateDiff's motion modules (mm_sd_v15_v2.ckpt): what stage 2's temporal layers start from",
        _read_animatediff,
        "loopy/stage2",
        gives=(f"denoising_unet.*{INTER}.*", f"denoising_unet.*{INTRA}.*"),
        computed=position_tables,
    ),
}
"""What convert.py reads, by name."""
