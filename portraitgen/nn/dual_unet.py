"""The two U-Nets of reference-driven diffusion: one reads the reference image, one denoises with its help."""

import inspect
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import Tensor, nn

from portraitgen.nn.options import reject_unknown
from portraitgen.nn.reference_attention import (
    Reference,
    ReferenceFeatures,
    ReferenceKeyValues,
)
from portraitgen.nn.temporal import TemporalTransformer
from portraitgen.nn.unet import Place, PlaceModules, UNetTrunk, Visit

# The options that `UNetTrunk.walk` respects. The others change diffusers' forward: only their defaults are
# right.
_RESPECTED_OPTIONS = (
    *("sample_size", "in_channels", "out_channels", "block_out_channels", "layers_per_block"),
    *("down_block_types", "up_block_types", "downsample_padding", "mid_block_scale_factor"),
    *("transformer_layers_per_block", "attention_head_dim", "cross_attention_dim", "dropout", "act_fn"),
    *("norm_num_groups", "norm_eps", "flip_sin_to_cos", "freq_shift"),
)
_BLOCK_TYPES = {
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
}


class DenoisingUNet(UNetTrunk):
    """Predicts the objective's target for the frames of a clip.

    Args:
        options: keyword arguments of diffusers' ``UNet2DConditionModel`` (where `attention_head_dim` is the
            number of heads).
        motion: None for images, or the motion modules' options, named as in diffusers' ``UNetMotionModel``:
            `motion_num_attention_heads` (8), `motion_max_seq_length` (32), `use_motion_mid_block` (True).
        kinds: what else is built at each place, see `UNetTrunk`.

    Raises:
        ValueError: unknown or unsupported option (named), or heads that do not divide the channels.
    """

    def __init__(
        self,
        options: Mapping[str, Any],
        motion: Mapping[str, Any] | None = None,
        kinds: Mapping[str, PlaceModules] | None = None,
    ) -> None:
        source = _diffusers_unet("denoising_unet", options)
        motion_modules = _motion_modules(motion, source.config["norm_num_groups"])
        super().__init__(source, {**motion_modules, **(kinds or {})})
        self.conv_norm_out = source.conv_norm_out
        self.conv_act = source.conv_act
        self.conv_out = source.conv_out

    def project_reference(self, features: ReferenceFeatures) -> ReferenceKeyValues:
        """Keys and values of the reference for every layer, the same for all frames and sampling steps."""
        blocks = [block for transformer in self.spatial_transformers for block in transformer.blocks]
        pairs = (
            block.project_reference(tokens) for block, tokens in zip(blocks, features.tokens, strict=True)
        )
        return ReferenceKeyValues(tuple(pairs))

    def forward(
        self,
        sample: Tensor,
        time: Tensor,
        context: Tensor,
        *,
        reference: ReferenceFeatures | ReferenceKeyValues | None = None,
        keep: Tensor | None = None,
        pose: Sequence[Tensor] = (),
        time_shift: Tensor | None = None,
        behind: Visit | None = None,
    ) -> Tensor:
        """Prediction [B, T, C, h, w].

        Args:
            sample: noisy latents [B, T, C, h, w].
            time: [B].
            context: [B, 1, D], the one token of the cross attention.
            reference: features or their keys and values, of B clips; None: plain self-attention.
            keep: [B] bool, False: the clip does not see its reference. None: all see it.
            pose: maps [B, T, c, h', w'], one more than levels, or none.
            time_shift: [B, T, E], added to the embedding of the time.
            behind: what hidden states [B*T, c, h', w'] pass at each place behind spatial attention; None:
                the motion module, if there is one.

        Raises:
            ValueError: context, pose maps, reference or clip length do not fit.
        """
        clips, num_frames = sample.shape[:2]
        if context.shape[:2] != (clips, 1):
            raise ValueError(f"context of shape {tuple(context.shape)}: one token a clip, [{clips}, 1, D]")
        if len(pose) not in (0, len(self.down_levels) + 1):
            raise ValueError(f"{len(pose)} pose maps: {len(self.down_levels) + 1} are needed, or none")
        layers: Iterator[Reference] | None = None
        if isinstance(reference, ReferenceFeatures):
            layers = iter(reference.tokens)
        elif reference is not None:
            layers = iter(reference.pairs)

        def mix(place: Place, hidden: Tensor) -> Tensor:
            motion = place.modules.get("motion_modules")
            return hidden if motion is None else self.run(motion, hidden, num_frames)

        def visit(place: Place, hidden: Tensor) -> Tensor:
            transformer = place.spatial
            if transformer is not None:
                read = None if layers is None else tuple(next(layers) for _ in transformer.blocks)
                hidden, _ = self.run(transformer, hidden, context, read, keep)
            return (behind or mix)(place, hidden)

        maps = [each.flatten(0, 1) for each in pose]
        embedding = self.embed_time(time, sample).repeat_interleave(num_frames, dim=0)
        if time_shift is not None:
            embedding = embedding + time_shift.flatten(0, 1)
        hidden = self.walk(sample.flatten(0, 1), embedding, visit, pose=maps)
        prediction = self.conv_out(self.conv_act(self.conv_norm_out(hidden)))
        return prediction.unflatten(0, (clips, num_frames))


class ReferenceUNet(UNetTrunk):
    """Gives the tokens of a reference image at every self-attention. Nothing behind the last one is run.

    What follows inside the last attention is kept, without gradient, because published checkpoints hold it;
    blocks and output layers behind it are not built.

    Args:
        options: keyword arguments of diffusers' ``UNet2DConditionModel``, with the attention layers of the
            denoising U-Net that reads the features.
        every_place: give a map at every place too (`ReferenceFeatures.maps`), also behind the last
            attention.

    Raises:
        ValueError: unknown or unsupported option (named), or no attention on the way up.
    """

    def __init__(self, options: Mapping[str, Any], *, every_place: bool = False) -> None:
        super().__init__(_diffusers_unet("reference_unet", options), {})
        self.every_place = every_place
        with_attention = [index for index, level in enumerate(self.up_levels) if level.spatial_transformers]
        if not with_attention:
            raise ValueError("reference_unet.up_block_types: at least one must be 'CrossAttnUpBlock2D'")
        if not every_place:
            self.up_blocks = self.up_blocks[: with_attention[-1] + 1]
        self.up_levels[-1].upsamplers = nn.ModuleList()
        # What is behind the last tokens runs where maps of later places are wanted.
        if self.up_levels[-1].spatial_transformers:
            self.spatial_transformers[-1].freeze_behind_tokens()

    def freeze_behind_tokens(self) -> None:
        """Take the gradient from everything behind the last attention's tokens: maps of later places go
        unread."""
        self.spatial_transformers[-1].freeze_behind_tokens()
        for level in reversed(self.up_levels):
            if level.spatial_transformers:
                level.upsamplers.requires_grad_(False)
                return
            level.requires_grad_(False)

    def forward(self, sample: Tensor, time: Tensor, context: Tensor) -> ReferenceFeatures:
        """Features of clean latents `sample` [B, C, h, w] at `time` [B] with `context` [B, 1, D]."""
        last = self.places[-1]
        collected: list[Tensor] = []
        maps: list[Tensor] = []

        def visit(place: Place, hidden: Tensor) -> Tensor:
            if place.spatial is not None:
                size = hidden.shape[-2:]
                end = place.spatial is last.spatial
                hidden, tokens = self.run(place.spatial, hidden, context, None, None, end)
                collected.extend(tokens)
                maps.append(tokens[-1].transpose(1, 2).unflatten(2, size))
            else:
                maps.append(hidden)
            return hidden

        self.walk(sample, self.embed_time(time, sample), visit)
        return ReferenceFeatures(tuple(collected), tuple(maps) if self.every_place else ())


def _diffusers_unet(section: str, options: Mapping[str, Any]) -> UNet2DConditionModel:
    """Build diffusers' U-Net, after checking that `options` say nothing that the walk does not respect."""
    parameters = inspect.signature(UNet2DConditionModel.__init__).parameters
    defaults = {name: parameter.default for name, parameter in parameters.items() if name != "self"}
    reject_unknown(section, options, defaults)
    for name, value in options.items():
        if name not in _RESPECTED_OPTIONS and value != defaults[name]:
            raise ValueError(f"{section}.{name}={value!r}: only {defaults[name]!r} is supported")
        supported = _BLOCK_TYPES.get(name)
        if supported is not None and not set(value) <= set(supported):
            raise ValueError(f"{section}.{name}={list(value)}: supported are {' and '.join(supported)}")
    if not isinstance(options.get("cross_attention_dim", 0), int):
        raise ValueError(f"{section}.cross_attention_dim: one number, all levels read the same context")
    return UNet2DConditionModel(**options)


def _motion_modules(options: Mapping[str, Any] | None, norm_num_groups: int) -> dict[str, PlaceModules]:
    """AnimateDiff's motion modules, by the name of their kind; none of them without options."""
    accepted = ("motion_num_attention_heads", "motion_max_seq_length", "use_motion_mid_block")
    reject_unknown("motion", options or {}, accepted)
    if options is None:
        return {}
    make = partial(
        TemporalTransformer,
        num_attention_heads=options.get("motion_num_attention_heads", 8),
        max_frames=options.get("motion_max_seq_length", 32),
        norm_num_groups=norm_num_groups,
    )
    return {"motion_modules": PlaceModules(make, options.get("use_motion_mid_block", True))}
