"""AniPortrait's network: reference U-Net, pose guider and denoising U-Net (arXiv:2403.17694)."""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from portraitgen.nn.dual_unet import DenoisingUNet, ReferenceUNet
from portraitgen.nn.options import reject_unknown
from portraitgen.nn.pose_guider import DRAWING_FACTOR, PoseGuider
from portraitgen.nn.reference_attention import ReferenceFeatures, ReferenceKeyValues
from portraitgen.nn.temporal import TemporalTransformer
from portraitgen.training.cost import StepSizes


def check_drawings(drawings: Tensor | None, latents: Tensor) -> None:
    """ValueError naming the right `data.examples.pose_size` where landmark drawings do not fit latents."""
    height, width = (DRAWING_FACTOR * side for side in latents.shape[-2:])
    found = None if drawings is None else tuple(drawings.shape[-2:])
    if found != (height, width):
        given = (
            "no landmark drawings" if found is None else f"landmark drawings of {found[0]}x{found[1]} pixels"
        )
        size = f"{height}" if height == width else f"[{height},{width}]"
        raise ValueError(
            f"{given}: latents of {latents.shape[-2]}x{latents.shape[-1]} need {height}x{width} "
            f"(data.examples.pose_size): set data.examples.pose_size={size}, {DRAWING_FACTOR} times the"
            " latents"
        )


class AniPortraitNetwork(nn.Module):
    """Everything that AniPortrait trains, for images (stage 1) and for clips (stage 2).

    Both stages have the same keys but for `motion_modules`; with fresh motion modules, stage 2 gives stage
    1's output frame by frame.

    Args:
        denoising_unet: keyword arguments of diffusers' ``UNet2DConditionModel``.
        reference_unet: likewise, with the same attention layers.
        pose_guider: options of `PoseGuider`; its `block_out_channels` are taken from the denoising U-Net.
        motion: None (stage 1), or any of `motion_num_attention_heads`, `motion_max_seq_length` and
            `use_motion_mid_block` (stage 2).
        reference_dtype: "float16" rounds the reference features, as upstream always does; None keeps them.

    Attributes:
        context_dim: width D of the image embedding.
        max_frames: longest clip that the motion modules take; None without them.

    Raises:
        ValueError: unknown or unsupported option (named), or networks that do not fit together.
    """

    def __init__(
        self,
        *,
        denoising_unet: Mapping[str, Any],
        reference_unet: Mapping[str, Any],
        pose_guider: Mapping[str, Any],
        motion: Mapping[str, Any] | None = None,
        reference_dtype: Literal["float16"] | None = None,
    ) -> None:
        super().__init__()
        if reference_dtype not in (None, "float16"):
            raise ValueError(f"reference_dtype={reference_dtype!r}: choose 'float16' (upstream) or null")
        own_options = set(inspect.signature(PoseGuider).parameters) - {"block_out_channels"}
        reject_unknown("pose_guider", pose_guider, own_options)
        self.denoising_unet = DenoisingUNet(denoising_unet, motion)
        self.reference_unet = ReferenceUNet(reference_unet)
        self.pose_guider = PoseGuider(self.denoising_unet.block_out_channels, **pose_guider)
        self.reference_dtype = torch.float16 if reference_dtype else None

        read, given = self.denoising_unet.attention_widths, self.reference_unet.attention_widths
        if read != given:
            raise ValueError(
                f"reference_unet gives features of widths {given}, denoising_unet reads {read}: "
                "give both the same block types, block_out_channels and layers_per_block"
            )
        if self.reference_unet.context_dim != self.denoising_unet.context_dim:
            raise ValueError(
                f"cross_attention_dim is {self.reference_unet.context_dim} in reference_unet and "
                f"{self.denoising_unet.context_dim} in denoising_unet: both read the same image embedding"
            )
        self.context_dim = self.denoising_unet.context_dim
        modules = self.denoising_unet.modules()
        limits = [each.max_frames for each in modules if isinstance(each, TemporalTransformer)]
        self.max_frames = min(limits, default=None)
        self._without_gradient = frozenset(
            name for name, parameter in self.named_parameters() if not parameter.requires_grad
        )

    def parameters_without_gradient(self) -> frozenset[str]:
        """Names of the parameters that can never get a gradient, whatever is trained; keep them frozen.

        They are the query side of the one-token cross attentions and what follows the last tokens of the
        reference U-Net: held for published checkpoints, never run. They are built frozen.
        """
        return self._without_gradient

    def set_gradient_checkpointing(self, enabled: bool) -> None:
        """Recompute activations for the gradient instead of storing them; outputs and gradients are equal."""
        for part in (self.denoising_unet, self.reference_unet, self.pose_guider):
            part.gradient_checkpointing = enabled

    def encode_reference(self, latents: Tensor, image_embeds: Tensor) -> ReferenceFeatures:
        """Features of clean reference latents [B, C, h, w] with image embedding [B, 1, D], at time 0."""
        time = torch.zeros(latents.shape[0], device=latents.device)
        features = self.reference_unet(latents, time, image_embeds)
        return features if self.reference_dtype is None else features.rounded(self.reference_dtype)

    def project_reference(self, features: ReferenceFeatures) -> ReferenceKeyValues:
        """Keys and values of the features, to be computed once and given to `forward` at every step."""
        return self.denoising_unet.project_reference(features)

    def encode_pose(self, pose: Tensor) -> tuple[Tensor, ...]:
        """Maps [B, T, c, h', w'] for every level, of landmark drawings [B, T, 3, 8h, 8w] in [-1, 1].

        The drawing is 8 times the latent grid [h, w], whatever the codec's factor is.
        """
        maps = self.pose_guider(pose.flatten(0, 1))
        return tuple(each.unflatten(0, pose.shape[:2]) for each in maps)

    def forward(
        self,
        noisy: Tensor,
        time: Tensor,
        *,
        reference: ReferenceFeatures | ReferenceKeyValues | None,
        pose: Sequence[Tensor],
        image_embeds: Tensor,
        keep: Tensor | None = None,
    ) -> Tensor:
        """Predict the objective's target [B, T, C, h, w].

        Args:
            noisy: noisy latents [B, T, C, h, w].
            time: [B], on the scale of the noise scheduler's steps (0 to 1000).
            reference: from `encode_reference` or `project_reference`; None: plain self-attention, the
                unconditional half of guidance at half the cost of attention.
            pose: from `encode_pose`; empty: none.
            image_embeds: [B, 1, D], zeros for the unconditional half of guidance.
            keep: [B] bool, clips that see their reference (default: all). False equals `reference=None`.

        Raises:
            ValueError: the inputs' shapes do not fit together, or the clip is longer than the motion
            modules' limit.
        """
        return self.denoising_unet(noisy, time, image_embeds, reference=reference, keep=keep, pose=pose)

    def rehearse(self, sizes: StepSizes) -> Tensor:
        """One pass as training makes it, over zeros of these sizes, to find out what it costs."""
        clean = torch.zeros(sizes.batch, self.denoising_unet.conv_in.in_channels, sizes.height, sizes.width)
        image = torch.zeros(sizes.batch, 1, self.context_dim)
        height, width = (DRAWING_FACTOR * side for side in (sizes.height, sizes.width))
        return self(
            clean[:, None].expand(-1, sizes.frames, -1, -1, -1).contiguous(),
            torch.zeros(sizes.batch),
            reference=self.encode_reference(clean, image),
            pose=self.encode_pose(torch.zeros(sizes.batch, sizes.frames, 3, height, width)),
            image_embeds=image,
        )
