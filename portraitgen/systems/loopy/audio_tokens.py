"""The sound around each frame as tokens for cross attention."""

from torch import Tensor, nn


class AudioTokens(nn.Module):
    """Three linear layers with ReLU between, then layer norm; the paper does not say, this is Hallo's.

    Args:
        window, layers, width: frames of sound around a frame, and shape of one frame's features.
        num_tokens, token_dim: what comes out.
        hidden_dim: between the linear layers.
    """

    def __init__(
        self,
        *,
        window: int,
        layers: int,
        width: int,
        num_tokens: int = 32,
        token_dim: int = 768,
        hidden_dim: int = 512,
    ) -> None:
        super().__init__()
        self.heard = (window, layers, width)
        self.num_tokens, self.token_dim = num_tokens, token_dim
        self.project = nn.Sequential(
            nn.Linear(window * layers * width, hidden_dim),
            nn.ReLU(),
            nn.Linear(hidden_dim, hidden_dim),
            nn.ReLU(),
            nn.Linear(hidden_dim, num_tokens * token_dim),
        )
        self.norm = nn.LayerNorm(token_dim)

    def forward(self, audio: Tensor) -> Tensor:
        """Features [B, T, window, layers, width] → tokens [B, T, num_tokens, token_dim].

        Raises:
            ValueError: features of another shape.
        """
        if tuple(audio.shape[2:]) != self.heard:
            raise ValueError(
                f"the sound has {list(audio.shape[2:])} numbers a frame, the network hears "
                f"{list(self.heard)} (window, layers, width): set model.network.audio, or take the speech "
                "encoder that it was made for"
            )
        return self.norm(self.project(audio.flatten(2)).unflatten(-1, (self.num_tokens, self.token_dim)))
