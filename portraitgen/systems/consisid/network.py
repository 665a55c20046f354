"""ConsisID's network: a video transformer that is shown a face as a picture and as tokens of who it is."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn

from portraitgen.nn.lora import add_lora, lora_settings, merged_lora, set_lora
from portraitgen.nn.pretrained import build_model
from portraitgen.systems.consisid.identity import FaceTokens
from portraitgen.systems.consisid.positions import rotary_positions
from portraitgen.systems.consisid.transformer import ConsisIDTransformer

FACE_MODULES = ("local_facial_extractor.*", "perceiver_cross_attention.*")


class ConsisIDNetwork(nn.Module):
    """The identity-preserving DiT on CogVideoX.

    Args:
        transformer: arguments of diffusers' ``ConsisIDTransformer3DModel``; None: those of `base`. Without
            `is_train_face` it has no face modules (the global stage).
        base: where weights are, see `build_model`: ConsisID's, or CogVideoX's for image to video, which lack
            the face modules; None: random ones.
        lora: adapters by name, see `add_lora`.

    Raises:
        ValueError: an option or a base that does not fit, by name.
    """

    def __init__(
        self,
        *,
        transformer: Mapping[str, Any] | None,
        base: Mapping[str, Any] | None = None,
        lora: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        super().__init__()
        self.transformer = build_model(
            ConsisIDTransformer, transformer, base, fresh=FACE_MODULES, section="network.base"
        )
        config = self.config
        out, channels = config.out_channels, config.in_channels
        if channels != 2 * out:
            raise ValueError(
                f"network.transformer: in_channels must be {2 * out}, those of the noisy latents and of the "
                f"face's picture, not {channels}"
            )
        add_lora(self, lora, section="network.lora")
        self._positions: dict[tuple[Any, ...], tuple[Tensor, Tensor]] = {}

    @property
    def config(self) -> Any:
        """Of the transformer."""
        return self.transformer.config

    @property
    def has_faces(self) -> bool:
        """Whether it is told who somebody is, beside the picture of the face."""
        return bool(self.config.is_train_face)

    @property
    def shows_picture(self) -> bool:
        """Whether it is shown a picture of the face."""
        return True

    @property
    def latent_channels(self) -> int:
        """C of the latents."""
        return int(self.config.out_channels)

    @property
    def text_dim(self) -> int:
        """Width of text embeddings."""
        return int(self.config.text_embed_dim)

    @contextmanager
    def adapted(self) -> Iterator[None]:
        """Inside the block adapters are part of the weights, for sampling; outside they train."""
        scales = dict.fromkeys(lora_settings(self), 1.0)
        try:
            with merged_lora(self, scales):
                yield
        finally:
            set_lora(self, scales)

    def set_gradient_checkpointing(self, enabled: bool) -> None:
        """Recompute activations, those of the face modules too, instead of storing them."""
        if enabled:
            self.transformer.enable_gradient_checkpointing()
        else:
            self.transformer.disable_gradient_checkpointing()

    def check_size(self, frames: int, height: int, width: int) -> None:
        """ValueError unless latents of that size can be drawn: learned positions are of one size only."""
        config = self.config
        patch = config.patch_size
        if height % patch or width % patch:
            raise ValueError(f"latents of {height}x{width}: both must be multiples of {patch}")
        if not config.use_learned_positional_embeddings:
            return
        trained = (config.sample_height, config.sample_width)
        longest = 1 + (config.sample_frames - 1) // config.temporal_compression_ratio
        if (height, width) != trained or frames > longest:
            raise ValueError(
                f"{frames} latents of {height}x{width}: the positions that these weights have learned are "
                f"for at most {longest} of {trained[0]}x{trained[1]} (of the published ones 49 frames of "
                "480x720 pixels)"
            )

    def face_tokens(self, embedding: Tensor, hidden: Tensor) -> Tensor:
        """Tokens [B, n, D] of faces, from the embedding [B, E] and CLIP's inner layers [B, L, N, C]."""
        dtype = self._precision(embedding)
        extractor = cast(FaceTokens, self.transformer.local_facial_extractor)
        return extractor(embedding.to(dtype), [each.to(dtype) for each in hidden.unbind(1)])

    def forward(
        self,
        noisy: Tensor,
        time: Tensor,
        *,
        text: Tensor,
        picture: Tensor | None = None,
        faces: Tensor | None = None,
        face_scale: float = 1.0,
    ) -> Tensor:
        """Predict the objective's target [B, t, C, h, w].

        Args:
            noisy: latents [B, t, C, h, w].
            time: [B], on the scale of the noise scheduler's steps.
            text: embeddings [B, L, D].
            picture: latents [B, 1, C, h, w] of the face; they stand beside the first ones, zeros beside the
                others. None: zeros.
            faces: from `face_tokens`; needed where `has_faces`.
            face_scale: of the attention to them.
        """
        dtype = self._precision(noisy)
        frames, _, height, width = noisy.shape[1:]
        self.check_size(frames, height, width)
        beside = torch.zeros_like(noisy)
        if picture is not None:
            beside[:, :1] = picture
        shown = torch.cat([noisy, beside], dim=2)
        self.transformer.local_face_scale = face_scale
        prediction = self.transformer(
            hidden_states=shown.to(dtype),
            encoder_hidden_states=text.to(dtype),
            timestep=time,
            image_rotary_emb=self._rotary(frames, height, width, noisy.device),
            id_cond=faces,
            id_vit_hidden=[],
            return_dict=False,
        )[0]
        return cast(Tensor, prediction.to(noisy.dtype))

    def _rotary(self, frames: int, height: int, width: int, on: torch.device) -> tuple[Tensor, Tensor] | None:
        """Made once for each size and device."""
        config = self.config
        if not config.use_rotary_positional_embeddings:
            return None
        key = (frames, height, width, on)
        if key not in self._positions:
            patch = config.patch_size
            self._positions[key] = rotary_positions(
                frames,
                (height // patch, width // patch),
                base=(config.sample_height // patch, config.sample_width // patch),
                head_dim=config.attention_head_dim,
                on=on,
            )
        return self._positions[key]

    def _precision(self, like: Tensor) -> torch.dtype:
        """Autocast chooses where it is on; else that of the weights counts."""
        if torch.is_autocast_enabled(like.device.type):
            return like.dtype
        return cast(torch.dtype, self.transformer.dtype)
