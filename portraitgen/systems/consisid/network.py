"""ConsisID's network: a video transformer that is shown a face as a picture and as tokens of who it is."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor

from portraitgen.nn.lora import add_lora
from portraitgen.nn.pretrained import build_model
from portraitgen.systems.consisid.host import Host
from portraitgen.systems.consisid.identity import FaceTokens
from portraitgen.systems.consisid.positions import rotary_positions
from portraitgen.systems.consisid.step_cache import BlockMemory
from portraitgen.systems.consisid.transformer import ConsisIDTransformer

FACE_MODULES = ("local_facial_extractor.*", "perceiver_cross_attention.*")


class ConsisIDNetwork(Host):
    """The identity-preserving DiT on CogVideoX.

    Args:
        transformer: arguments of diffusers' ``ConsisIDTransformer3DModel``; None: those of `base`. Without
            `is_train_face` it has no face modules (the global stage).
        base: where weights are, see `build_model`: ConsisID's, or CogVideoX's for image to video, which lack
            the face modules; None: random ones.
        lora: adapters by name, see `add_lora`.
        picture: show the face beside the noise; False: zeros stand there, and who it is comes by the tokens
            alone (the paper's ablation without the global facial extractor).

    Raises:
        ValueError: an option or a base that does not fit, by name.
    """

    words = 226

    def __init__(
        self,
        *,
        transformer: Mapping[str, Any] | None,
        base: Mapping[str, Any] | None = None,
        lora: Mapping[str, Mapping[str, Any]] | None = None,
        picture: bool = True,
    ) -> None:
        super().__init__()
        self._picture = picture
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
    def extractor(self) -> FaceTokens | None:
        return self.transformer.local_facial_extractor if self.config.is_train_face else None

    @property
    def extractor_settings(self) -> Mapping[str, int]:
        names = ("LFE_id_dim", "LFE_vit_dim", "LFE_num_scale")
        return {f"network.transformer.{name}": self.config[name] for name in names}

    @property
    def shows_picture(self) -> bool:
        return self._picture

    @property
    def shows_key_points(self) -> bool:
        return self._picture and bool(self.config.is_kps)

    @property
    def text_dim(self) -> int:
        return int(self.config.text_embed_dim)

    @property
    def native_size(self) -> tuple[int, int]:
        return self.config.sample_height, self.config.sample_width

    def time_embeddings(self, times: Tensor) -> Tensor:
        weights = self.transformer.time_embedding.linear_1.weight
        projected = self.transformer.time_proj(times.to(weights.device))
        return cast(Tensor, self.transformer.time_embedding(projected.to(self.precision(projected))))

    def block_memory(self) -> BlockMemory:
        return _BlockMemory(self.transformer, blocks="transformer_blocks", end=self.transformer.norm_final)

    def check_size(self, frames: int, height: int, width: int) -> None:
        """As `Host.check_size`: learned positions are of one size only."""
        config = self.config
        if self.shows_key_points and frames < 2:
            raise ValueError("a single frame: key points are shown beside the second latents")
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
        """As `Host.forward`; time is on the scale of the noise scheduler's steps. The picture stands beside
        the first latents, key points beside the second ones, zeros beside the others.
        """
        dtype = self.precision(noisy)
        frames, _, height, width = noisy.shape[1:]
        self.check_size(frames, height, width)
        beside = torch.zeros_like(noisy)
        if picture is not None:
            beside[:, : picture.shape[1]] = picture
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


class _BlockMemory(BlockMemory):
    def joined(self, *, hidden_states: Tensor, encoder_hidden_states: Tensor, **_: Any) -> Tensor:  # type: ignore[override]
        return torch.cat([encoder_hidden_states, hidden_states], dim=1)

    def parted(self, total: Tensor, *, encoder_hidden_states: Tensor, **_: Any) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        words = encoder_hidden_states.shape[1]
        return total[:, words:], total[:, :words]

    @contextmanager
    def _skipping(self) -> Iterator[None]:
        """What was added includes what was read of the face."""
        reads = self._transformer.is_train_face
        self._transformer.is_train_face = False
        try:
            with super()._skipping():
                yield
        finally:
            self._transformer.is_train_face = reads
