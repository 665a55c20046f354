"""Loopy's network: reference U-Net, and denoising U-Net with temporal and audio layers (arXiv:2409.02634)."""

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, cast, get_args

import torch
from torch import Tensor, nn

from portraitgen.nn.dual_unet import DenoisingUNet, ReferenceUNet
from portraitgen.nn.options import reject_unknown
from portraitgen.nn.reference_attention import ReferenceFeatures, ReferenceKeyValues
from portraitgen.nn.temporal import TemporalTransformer
from portraitgen.nn.token_attention import TokenAttention
from portraitgen.nn.unet import Place, PlaceModules
from portraitgen.systems.loopy.audio_tokens import AudioTokens
from portraitgen.systems.loopy.motion_latents import MotionLatents
from portraitgen.training.cost import StepSizes

Context = Literal["zeros", "learned"]
Order = Literal["audio_first", "audio_last"]

INTER, INTRA, AUDIO = "inter_clip", "intra_clip", "audio_attention"
"""What is built at every place of the denoising U-Net in stage 2."""
ORDERS = {"audio_first": (AUDIO, INTER, INTRA), "audio_last": (INTER, INTRA, AUDIO)}
"""In which order hidden states pass them; the paper says that inter-clip comes before intra-clip."""
_CHOICES = {
    "absent": ("zero", "unseen"),
    "plain_places": ("resnet", "none"),
    "motion_order": ("oldest_first", "nearest_first"),
}
"""Of `temporal`, the first of each if nothing is said."""
_TEMPORAL = {"clip_frames", "motion_frames", "num_attention_heads", "positions", *_CHOICES}
_AUDIO = {"window", "layers", "width", "num_tokens", "hidden_dim", "num_attention_heads"}


@dataclass(frozen=True, slots=True)
class ClipContext:
    """What a clip is drawn by beside its sound: the same for all its frames, steps and guidance passes.

    Attributes:
        reference: keys and values of the reference for every spatial attention.
        motion: tokens [B, h'*w', M, C] of the motion frames for every inter-clip layer that reads them, or
            [B, 1, M, C] where they are the same at all pixels; () in stage 1.
        visible: [B, M] bool, the motion frames that are read; None: all.
    """

    reference: ReferenceKeyValues
    motion: tuple[Tensor, ...] = ()
    visible: Tensor | None = None

    def repeated(self, times: int) -> "ClipContext":
        """For `times` batches one behind the other."""

        def repeat(each: Tensor) -> Tensor:
            return each.repeat(times, *[1] * (each.ndim - 1))

        return ClipContext(
            ReferenceKeyValues(tuple((repeat(key), repeat(value)) for key, value in self.reference.pairs)),
            tuple(map(repeat, self.motion)),
            None if self.visible is None else repeat(self.visible),
        )


class LoopyNetwork(nn.Module):
    """Everything that Loopy trains, for frames (stage 1) and for clips with sound (stage 2).

    Stage 2's network has stage 1's parameters and more; as built, the new ones change nothing.

    Args:
        denoising_unet: keyword arguments of diffusers' ``UNet2DConditionModel``.
        reference_unet: likewise, with the same blocks.
        temporal: None (stage 1), or `clip_frames` (12), `motion_frames` (20), `num_attention_heads` (8),
            `positions` (see `TemporalTransformer`; "learned"), `absent`: what stands for motion frames that
            there are not, "zero" features or nothing ("unseen"), `plain_places`: what inter-clip layers read
            of motion frames at places without attention, what the reference U-Net's "resnet" gives or "none"
            of them, and `motion_order`: whether they stand "oldest_first" before the clip or "nearest_first".
        audio: None (stage 1), or `window` (5), `layers` (12), `width` (768), `num_tokens` (32),
            `hidden_dim` (512), see `AudioTokens`, and `num_attention_heads` (8) of the cross attention.
        motion_latents: options of `MotionLatents`, with `num_landmarks`; None: no audio-to-latents.
        context: what the place of Stable Diffusion's prompt holds: "zeros" or one that is "learned".
        order: a key of `ORDERS`: whether sound is attended to before the temporal layers or behind them.

    Raises:
        ValueError: unknown or unsupported option (named), or networks that do not fit together.
    """

    gathered_for = ("read", "with_motion")  # the learned context
    """As in `ReferenceTransformerBlock`."""

    def __init__(
        self,
        *,
        denoising_unet: Mapping[str, Any],
        reference_unet: Mapping[str, Any],
        temporal: Mapping[str, Any] | None = None,
        audio: Mapping[str, Any] | None = None,
        motion_latents: Mapping[str, Any] | None = None,
        context: Context = "zeros",
        order: Order = "audio_first",
    ) -> None:
        super().__init__()
        reject_unknown("temporal", temporal or {}, _TEMPORAL)
        reject_unknown("audio", audio or {}, _AUDIO)
        if (temporal is None) != (audio is None):
            raise ValueError("temporal and audio: both null (stage 1), or both set (stage 2)")
        if context not in get_args(Context):
            raise ValueError(f"context={context!r}: choose zeros or learned")
        if order not in ORDERS:
            raise ValueError(f"order={order!r}: choose {' or '.join(ORDERS)}")
        self.order = ORDERS[order]
        self.has_clips = temporal is not None
        temporal, audio = dict(temporal or {}), dict(audio or {})
        self.clip_frames: int = temporal.pop("clip_frames", 12)
        self.motion_frames: int = temporal.pop("motion_frames", 20)
        chosen = {name: temporal.pop(name, choices[0]) for name, choices in _CHOICES.items()}
        for name, choices in _CHOICES.items():
            if chosen[name] not in choices:
                raise ValueError(f"temporal.{name}={chosen[name]!r}: choose {' or '.join(choices)}")
        self._hides_absent = chosen["absent"] == "unseen"
        self._reads_plain = self.has_clips and chosen["plain_places"] == "resnet"
        self._nearest_first = chosen["motion_order"] == "nearest_first"
        attention_heads = audio.pop("num_attention_heads", 8)
        token_dim = denoising_unet["cross_attention_dim"]

        kinds = {}
        if self.has_clips:
            temporal.setdefault("positions", "learned")
            make = partial(
                TemporalTransformer,
                norm_num_groups=denoising_unet.get("norm_num_groups", 32),
                **temporal,
            )
            attend = partial(TokenAttention, token_dim=token_dim, num_attention_heads=attention_heads)
            kinds = {
                AUDIO: PlaceModules(attend),
                INTER: PlaceModules(partial(make, max_frames=self.motion_frames + self.clip_frames)),
                INTRA: PlaceModules(partial(make, max_frames=self.clip_frames)),
            }
        self.denoising_unet = DenoisingUNet(denoising_unet, kinds=kinds)
        self.reference_unet = ReferenceUNet(reference_unet, every_place=True)
        if not self._reads_plain:
            self.reference_unet.freeze_behind_tokens()
        self._check_widths()
        self.audio_tokens = self.motion_latents = None
        if self.has_clips:
            settings = {"window": 5, "layers": 12, "width": 768, **audio}
            self.audio_tokens = AudioTokens(token_dim=token_dim, **settings)
        if motion_latents is not None:
            if self.audio_tokens is None:
                raise ValueError("motion_latents: they are made of sound, set audio (stage 2)")
            given = {"token_dim", "num_tokens", "time_dim"}
            own = set(inspect.signature(MotionLatents).parameters) - given
            reject_unknown("motion_latents", motion_latents, own)
            self.motion_latents = MotionLatents(
                token_dim=token_dim,
                num_tokens=self.audio_tokens.num_tokens,
                time_dim=4 * self.denoising_unet.block_out_channels[0],
                **motion_latents,
            )
        self.context = None
        if context == "learned":
            self.context = nn.Parameter(torch.zeros(1, 1, token_dim))
        else:
            self._freeze_prompt_weights()
        self._without_gradient = frozenset(
            name for name, parameter in self.named_parameters() if not parameter.requires_grad
        )

    def _check_widths(self) -> None:
        read, given = self.denoising_unet.attention_widths, self.reference_unet.attention_widths
        places = [len(unet.places) for unet in (self.denoising_unet, self.reference_unet)]
        if read != given or places[0] != places[1]:
            raise ValueError(
                f"reference_unet gives features of widths {given}, denoising_unet reads {read}: "
                "give both the same block types, block_out_channels and layers_per_block"
            )
        if self.reference_unet.context_dim != self.denoising_unet.context_dim:
            raise ValueError("cross_attention_dim must be the same in reference_unet and denoising_unet")

    def _freeze_prompt_weights(self) -> None:
        """Of the cross attention to a token of zeros only the last bias ever counts."""
        for unet in (self.denoising_unet, self.reference_unet):
            for block in (block for each in unet.spatial_transformers for block in each.blocks):
                block.attn2.to_v.requires_grad_(False)
                cast(Any, block.attn2.to_out)[0].weight.requires_grad_(False)

    def parameters_without_gradient(self) -> frozenset[str]:
        """Names of the parameters that can never get a gradient, whatever is trained; keep them frozen."""
        return self._without_gradient

    def set_gradient_checkpointing(self, enabled: bool) -> None:
        """Recompute activations for the gradient instead of storing them; outputs and gradients are equal."""
        for part in (self.denoising_unet, self.reference_unet):
            part.gradient_checkpointing = enabled

    def read(
        self, reference: Tensor, motion: Tensor | None = None, found: Tensor | None = None
    ) -> ClipContext:
        """What clips are drawn by, of one run of the reference U-Net over reference and motion frames.

        Args:
            reference: clean latents [B, C, h, w].
            motion: clean latents [B, M, C, h, w], oldest first; None: there is nothing before the clip.
            found: [B, M] bool, the motion frames that there are and that are not hidden; None: all. The
                features of the others are zero.
        """
        frames = reference[:, None] if motion is None else torch.cat([reference[:, None], motion], dim=1)
        features = self._features(frames)
        read = features.rows(slice(None, None, frames.shape[1]))
        context = ClipContext(self.denoising_unet.project_reference(read))
        if not self.has_clips:
            return context
        if motion is None:
            return self.without_motion(context)
        maps = [each.unflatten(0, (len(reference), -1))[:, 1:] for each in features.maps]
        return self._with_maps(context, maps, found)

    def with_motion(self, context: ClipContext, motion: Tensor, found: Tensor | None = None) -> ClipContext:
        """The next clip's context, which has the same reference; arguments as `read`."""
        maps = [each.unflatten(0, (len(motion), -1)) for each in self._features(motion).maps]
        return self._with_maps(context, maps, found)

    def without_motion(self, context: ClipContext) -> ClipContext:
        """The context of clips with nothing before them: zero features, which the U-Net need not run for."""
        like = context.reference.pairs[0][0]
        maps = []
        for place in self.denoising_unet.places:
            channels = cast(TemporalTransformer, place.modules[INTER]).proj_in.in_features
            maps.append(like.new_zeros(len(like), self.motion_frames, channels, 1, 1))
        return self._with_maps(context, maps, like.new_zeros(maps[0].shape[:2], dtype=torch.bool))

    def _reads_motion(self, place: Place) -> bool:
        """Whether the inter-clip layer there reads the motion frames."""
        return place.spatial is not None or self._reads_plain

    def hear(self, audio: Tensor) -> Tensor:
        """Tokens [B, T, N, D] of the sound around each frame, [B, T, window, layers, width]."""
        assert self.audio_tokens is not None
        tokens: Tensor = self.audio_tokens(audio)
        return tokens

    def latents_of_motion(
        self, tokens: Tensor, conditions: Mapping[str, Tensor] | None = None, choice: Tensor | None = None
    ) -> Tensor | None:
        """Motion latents [B, T, E], or None without audio-to-latents.

        Args:
            tokens: of `hear`.
            conditions, choice: those beside sound, see `MotionLatents`; None: sound alone.
        """
        if self.motion_latents is None:
            return None
        latents: Tensor = self.motion_latents({**(conditions or {}), "audio": tokens}, choice)
        return latents

    def forward(
        self,
        noisy: Tensor,
        time: Tensor,
        context: ClipContext,
        *,
        tokens: Tensor | None = None,
        motion_latents: Tensor | None = None,
        keep_reference: Tensor | None = None,
        keep_motion: Tensor | None = None,
    ) -> Tensor:
        """Predict the objective's target [B, T, C, h, w].

        Args:
            noisy: noisy latents [B, T, C, h, w].
            time: [B], steps of the noise scheduler.
            context: of the clips.
            tokens: of the sound, [B, T, N, D]; for stage 2's network.
            motion_latents: [B, T, E], added to the embedding of the time.
            keep_reference: [B] bool; where it is False the clip attends to itself only.
            keep_motion: [B] bool; where it is False no motion frame is read.

        Raises:
            ValueError: shapes do not fit together, or the clip is too long.
        """
        num_frames = noisy.shape[1]
        visible = context.visible
        if keep_motion is not None and context.motion:
            visible = keep_motion[:, None] & (
                visible if visible is not None else keep_motion.new_ones(1, context.motion[0].shape[2])
            )
        read = None if tokens is None else tokens.flatten(0, 1)
        motion = iter(context.motion)
        run = self.denoising_unet.run

        def behind(place: Place, hidden: Tensor) -> Tensor:
            if not place.modules:
                return hidden
            assert read is not None, "stage 2's network needs the sound's tokens"
            before = None
            if self._reads_motion(place):
                before = next(motion).expand(-1, hidden.shape[-2] * hidden.shape[-1], -1, -1).flatten(0, 1)
            for kind in self.order:
                if kind == AUDIO:
                    hidden = run(place.modules[AUDIO], hidden, read)
                elif kind == INTER:
                    hidden = run(place.modules[INTER], hidden, num_frames, before=before, visible=visible)
                else:
                    hidden = run(place.modules[INTRA], hidden, num_frames)
            return hidden

        return self.denoising_unet(
            noisy,
            time,
            self._context(len(noisy), noisy),
            reference=context.reference,
            keep=keep_reference,
            time_shift=motion_latents,
            behind=behind,
        )

    def rehearse(self, sizes: StepSizes) -> Tensor:
        """One pass as training makes it, over zeros of these sizes, to find out what it costs."""
        shape = (self.denoising_unet.conv_in.in_channels, sizes.height, sizes.width)
        noisy = torch.zeros(sizes.batch, sizes.frames, *shape)
        time, clean = torch.zeros(sizes.batch), torch.zeros(sizes.batch, *shape)
        if self.audio_tokens is None:
            return self(noisy, time, self.read(clean))
        motion = torch.zeros(sizes.batch, self.motion_frames, *shape)
        found = torch.ones(motion.shape[:2], dtype=torch.bool)
        tokens = self.hear(torch.zeros(sizes.batch, sizes.frames, *self.audio_tokens.heard))
        latents = self.latents_of_motion(tokens)
        context = self.read(clean, motion, found)
        return self(noisy, time, context, tokens=tokens, motion_latents=latents)

    def _context(self, count: int, like: Tensor) -> Tensor:
        """[N, 1, D] in the place of a prompt."""
        if self.context is None:
            return like.new_zeros(count, 1, self.denoising_unet.context_dim)
        return self.context.to(like.dtype).expand(count, -1, -1)

    def _features(self, frames: Tensor) -> ReferenceFeatures:
        """Of clean latents [B, n, C, h, w] at time 0, one clip behind the other."""
        latents = frames.flatten(0, 1)
        time = torch.zeros(len(latents), device=latents.device)
        features: ReferenceFeatures = self.reference_unet(latents, time, self._context(len(latents), latents))
        return features

    def _with_maps(self, context: ClipContext, maps: list[Tensor], found: Tensor | None) -> ClipContext:
        """With features of the motion frames, oldest first: maps [B, M, C, h', w'] at each place."""
        if self._nearest_first:
            maps = [each.flip(1) for each in maps]
            found = None if found is None else found.flip(1)
        projected = []
        for place, each in zip(self.denoising_unet.places, maps, strict=True):
            if not self._reads_motion(place):
                continue
            if found is not None:
                each = each.masked_fill(~found[..., None, None, None], 0)
            layer = cast(TemporalTransformer, place.modules[INTER])
            tokens = layer.project(each.flatten(0, 1), each.shape[1])
            projected.append(tokens.unflatten(0, (len(each), -1)))
        visible = found if self._hides_absent else None
        return ClipContext(context.reference, tuple(projected), visible)
