"""ConsisID's identity modules on Wan 2.1 of text to video, 1.3B and 14B."""

from collections.abc import Mapping
from typing import Any

from diffusers.models.transformers.transformer_wan import WanTransformer3DModel
from torch import Tensor

from portraitgen.nn.lora import add_lora
from portraitgen.nn.options import reject_unknown
from portraitgen.nn.pretrained import build_model
from portraitgen.systems.consisid.host import Host
from portraitgen.systems.consisid.identity import FaceTokens
from portraitgen.systems.consisid.step_cache import BlockMemory
from portraitgen.systems.consisid.wan.seam import FaceWan, add_face_attention

_TIME_SCALE = 1000
_FACE = {"every": 2, "heads": 16, "head_dim": 128, "gate": 0.0}
_EXTRACTOR = {
    "id_dim": 1280,
    "vit_dim": 1024,
    "depth": 10,
    "dim_head": 64,
    "heads": 16,
    "num_id_token": 5,
    "num_queries": 32,
    "ff_mult": 4,
    "num_scale": 5,
}


class WanNetwork(Host):
    """Wan that is told who somebody is by face tokens; it is shown no picture of the face.

    Args:
        transformer: arguments of diffusers' ``WanTransformer3DModel``; None: those of `base`.
        base: where its weights are, see `build_model`; None: random ones.
        extractor: arguments of `FaceTokens`; its output has the transformer's width.
        face: `every`, `heads`, `head_dim` and `gate` of the attention to the tokens, see
            `add_face_attention`.
        lora: adapters by name, see `add_lora`.

    Raises:
        ValueError: an option or a base that does not fit, by name.
    """

    transformer: FaceWan
    words = 512

    def __init__(
        self,
        *,
        transformer: Mapping[str, Any] | None,
        base: Mapping[str, Any] | None = None,
        extractor: Mapping[str, Any] | None = None,
        face: Mapping[str, Any] | None = None,
        lora: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        super().__init__()
        reject_unknown("network.extractor", extractor or {}, _EXTRACTOR)
        reject_unknown("network.face", face or {}, _FACE)
        sizes = _EXTRACTOR | dict(extractor or {})
        if sizes["depth"] % sizes["num_scale"]:
            raise ValueError(
                f"network.extractor: depth ({sizes['depth']}) must be a multiple of num_scale "
                f"({sizes['num_scale']})"
            )
        wan = build_model(WanTransformer3DModel, transformer, base, section="network.base")
        self.transformer = add_face_attention(
            wan, num_tokens=sizes["num_queries"], **(_FACE | dict(face or {}))
        )
        width = self.config["num_attention_heads"] * self.config["attention_head_dim"]
        self.local_facial_extractor = FaceTokens(output_dim=width, **sizes)
        self._sizes = sizes
        add_lora(self, lora, section="network.lora")

    @property
    def extractor(self) -> FaceTokens:
        return self.local_facial_extractor

    @property
    def extractor_settings(self) -> Mapping[str, int]:
        return {f"network.extractor.{n}": self._sizes[n] for n in ("id_dim", "vit_dim", "num_scale")}

    @property
    def shows_picture(self) -> bool:
        return False

    @property
    def text_dim(self) -> int:
        return int(self.config["text_dim"])

    @property
    def native_size(self) -> None:
        return None

    def set_gradient_checkpointing(self, enabled: bool) -> None:
        super().set_gradient_checkpointing(enabled)
        recompute: Any = self.transformer._gradient_checkpointing_func if enabled else None
        self.local_facial_extractor.gradient_checkpointing = enabled
        self.local_facial_extractor._gradient_checkpointing_func = recompute

    def time_embeddings(self, times: Tensor) -> Tensor:
        embedder = self.transformer.condition_embedder
        on = embedder.time_embedder.linear_1.weight.device
        projected: Tensor = embedder.timesteps_proj(times.to(on) * _TIME_SCALE)
        embeddings: Tensor = embedder.time_embedder(projected.to(self.precision(projected)))
        return embeddings

    def block_memory(self) -> BlockMemory:
        return _BlockMemory(self.transformer, blocks="blocks", end=self.transformer.norm_out)

    def check_size(self, frames: int, height: int, width: int) -> None:
        along, *across = self.config["patch_size"]
        if frames % along or height % across[0] or width % across[1]:
            raise ValueError(
                f"{frames} latents of {height}x{width}: they must be multiples of {along} and of "
                f"{across[0]}x{across[1]}"
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
        """As `Host.forward`; time is t in [0, 1] of the flow."""
        assert picture is None, "Wan is shown no picture"
        assert faces is not None, "Wan needs face tokens"
        self.check_size(*noisy.shape[1:2], *noisy.shape[-2:])
        dtype = self.precision(noisy)
        for block in self.transformer.blocks:
            block.face_scale = face_scale  # type: ignore[assignment]  # modules of one class
        prediction: Tensor = self.transformer(
            hidden_states=noisy.transpose(1, 2).to(dtype),
            timestep=time * _TIME_SCALE,
            encoder_hidden_states=text.to(dtype),
            encoder_hidden_states_image=faces.to(dtype),
            return_dict=False,
        )[0]
        return prediction.transpose(1, 2).to(noisy.dtype)


class _BlockMemory(BlockMemory):
    def joined(self, hidden_states: Tensor, *_: Tensor) -> Tensor:  # type: ignore[override]
        return hidden_states

    def parted(self, total: Tensor, *_: Tensor) -> Tensor:  # type: ignore[override]
        return total
