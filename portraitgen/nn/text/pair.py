"""Two text encoders as one: tokens of the one, the pooled vector of the other."""

from collections.abc import Sequence

import torch

from portraitgen.nn.text.encoding import TextEncoder, TextEncoding


class TextPair:
    """What Flux looks at: T5's tokens and CLIP's pooled vector (`encode_prompt` of diffusers' FluxPipeline).

    Args:
        tokens: gives `embeds` and `mask`.
        pooled: gives `pooled`.
    """

    def __init__(self, tokens: TextEncoder, pooled: TextEncoder) -> None:
        self._tokens, self._pooled = tokens, pooled

    def encode(self, prompts: Sequence[str], *, device: torch.device | str = "cpu") -> TextEncoding:
        """As `TextEncoder.encode`."""
        tokens = self._tokens.encode(prompts, device=device)
        return TextEncoding(tokens.embeds, tokens.mask, self._pooled.encode(prompts, device=device).pooled)

    def offload(self) -> None:
        self._tokens.offload()
        self._pooled.offload()

    def free(self) -> None:
        self._tokens.free()
        self._pooled.free()
