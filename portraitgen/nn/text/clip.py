"""CLIP's text encoder, as Stable Diffusion and Flux use it."""

from typing import Any, Self

import torch
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer, PreTrainedModel

from portraitgen.nn.text.encoding import TextEncoding
from portraitgen.nn.text.folder import TextFolder
from portraitgen.nn.text.pretrained import PretrainedText


class CLIPText(PretrainedText):
    """CLIP (Radford et al. 2021): 77 tokens of hidden states, and those of the end of the prompt as `pooled`.

    Stable Diffusion's network looks at the hidden states, of the padding too (`encode_prompt` of diffusers'
    StableDiffusionPipeline); Flux's at `pooled` (FluxPipeline).

    Args:
        files: where it lies.
        clip_skip: last layers that are left out; the final norm is not.
    """

    tokenizer_kind = CLIPTokenizer

    def __init__(self, files: TextFolder, *, clip_skip: int = 0) -> None:
        super().__init__(files)
        if clip_skip < 0:
            raise ValueError(f"clip_skip={clip_skip}: give 0 or how many of the last layers to leave out")
        self.clip_skip = clip_skip

    @classmethod
    def from_pretrained(
        cls,
        folder: str,
        *,
        text_encoder: str = "text_encoder",
        tokenizer: str = "tokenizer",
        dtype: str = "auto",
        source: str = "",
        clip_skip: int = 0,
    ) -> Self:
        """The encoder in `folder`, see `TextFolder`.

        Raises:
            ValueError: files are missing, named with where to get them.
        """
        return cls(TextFolder(folder, text_encoder, tokenizer, dtype, source), clip_skip=clip_skip)

    def model_kind(self) -> type[PreTrainedModel]:
        if self._files.model_type() not in ("clip", "clip_text_model"):
            raise ValueError(f"{self._files.model_folder} holds a {self._files.model_type()}, not a CLIP")
        return CLIPTextModel

    @property
    def max_tokens(self) -> int:
        return min(self.tokenizer.model_max_length, self.model.config.max_position_embeddings)

    def settings(self) -> dict[str, Any]:
        return {"encoder": "CLIPText", "max_tokens": self.max_tokens, "clip_skip": self.clip_skip}

    def embed(self, tokens: Tensor, mask: Tensor) -> TextEncoding:
        output = self.model(tokens, output_hidden_states=self.clip_skip > 0)
        embeds = output.last_hidden_state
        if self.clip_skip:
            if self.clip_skip >= len(output.hidden_states):
                layers = len(output.hidden_states) - 1
                raise ValueError(f"clip_skip={self.clip_skip}: this CLIP has {layers} layers")
            embeds = self.model.get_submodule("final_layer_norm")(output.hidden_states[-1 - self.clip_skip])
        return TextEncoding(embeds, torch.ones_like(mask, dtype=torch.bool), output.pooler_output)
