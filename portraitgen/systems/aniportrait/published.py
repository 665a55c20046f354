"""Weights in the names of the published AniPortrait files: reading, loading into our network, giving back.

Published are ``denoising_unet.pth``, ``reference_unet.pth``, ``pose_guider.pth`` and ``motion_module.pth``.
Their names are ours but for the motion modules, where diffusers and AnimateDiff differ.
"""

import re
from collections.abc import Mapping

from torch import Tensor

from portraitgen.systems.aniportrait.network import AniPortraitNetwork
from portraitgen.training.public_unets import (
    MOTION_NAMES,
    POSITIONS,
    PUBLISHED_POSITIONS,
    from_published_name,
)
from portraitgen.training.weights import load_into

_PARTS = ("denoising_unet", "reference_unet", "pose_guider")


def to_published_names(name: str) -> tuple[str, ...]:
    """Published name of one of our tensors, within its U-Net or pose guider; two for a table of positions."""
    if ".motion_modules." not in name:
        return (name,)
    name = re.sub(r"(\.motion_modules\.\d+\.)", r"\1temporal_transformer.", name)
    if name.endswith(POSITIONS):
        block = name.removesuffix(POSITIONS)
        return tuple(f"{block}.attention_blocks.{index}{PUBLISHED_POSITIONS}" for index in (0, 1))
    for published, ours in MOTION_NAMES:
        name = name.replace(ours, published)
    return (name,)


def load_published(
    network: AniPortraitNetwork,
    *,
    denoising_unet: Mapping[str, Tensor],
    reference_unet: Mapping[str, Tensor],
    pose_guider: Mapping[str, Tensor],
    motion_module: Mapping[str, Tensor] | None = None,
) -> None:
    """Load tensors in published names: all that `network` has, and nothing else.

    Motion modules may stand in `denoising_unet` or in `motion_module`. Of the latter only the motion
    modules are read, so that AnimateDiff's checkpoints of whole U-Nets can be given.

    Raises ``ValueError`` when names or shapes differ, listing them; nothing is loaded then.
    """
    tensors = from_published(
        denoising_unet=denoising_unet,
        reference_unet=reference_unet,
        pose_guider=pose_guider,
        motion_module=motion_module,
    )
    load_into(network, tensors, source="the published weights", expect_missing=[f"*{POSITIONS}"])


def from_published(
    *,
    denoising_unet: Mapping[str, Tensor],
    reference_unet: Mapping[str, Tensor],
    pose_guider: Mapping[str, Tensor],
    motion_module: Mapping[str, Tensor] | None = None,
) -> dict[str, Tensor]:
    """Tensors of the published files in our network's names, tables of positions left out."""
    files = (
        {**denoising_unet, **_motion_modules(motion_module or {})},
        reference_unet,
        pose_guider,
    )
    return {
        f"{part}.{ours}": value
        for part, file in zip(_PARTS, files, strict=True)
        for name, value in file.items()
        if (ours := from_published_name(name)) is not None
    }


def from_animatediff(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Motion modules of an AnimateDiff checkpoint (such as mm_sd_v15_v2.ckpt) in our network's names."""
    return {
        f"denoising_unet.{ours}": value
        for name, value in _motion_modules(tensors).items()
        if (ours := from_published_name(name)) is not None
    }


def _motion_modules(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value for name, value in tensors.items() if ".motion_modules." in name}


def published_state(network: AniPortraitNetwork) -> dict[str, dict[str, Tensor]]:
    """The network's tensors in published names, by file: see `to_published`."""
    return to_published(network.state_dict())


def to_published(tensors: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """Tensors in our network's names in published ones, by file.

    The files are "denoising_unet", "reference_unet", "pose_guider" and, with motion modules, "motion_module".
    """
    files: dict[str, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        part, _, inner = name.partition(".")
        file = "motion_module" if ".motion_modules." in name else part
        files.setdefault(file, {}).update(dict.fromkeys(to_published_names(inner), value))
    return files
