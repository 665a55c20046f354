"""What a pass costs, where that can be said by hand."""

import torch
from torch import Tensor, nn

from portraitgen.training.cost import cost_of_pass, without_memory

BATCH, HEADS, TOKENS, WIDTH = 2, 4, 64, 8


class Attention(nn.Module):
    """One trained number a head and channel, and attention of tokens to themselves."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.empty(HEADS, 1, WIDTH))

    def forward(self, tokens: Tensor) -> Tensor:
        scaled = tokens * self.scale
        return nn.functional.scaled_dot_product_attention(scaled, scaled, scaled)


def test_attention_is_counted() -> None:
    """Two matrix products forward, five backward; on a CPU they were none, so plans were too fast by half."""
    with torch.device("meta"):
        network = Attention()
    with without_memory(network):
        tokens = torch.empty(BATCH, HEADS, TOKENS, WIDTH)
        cost = cost_of_pass(network, lambda: network(tokens))
    product = 2 * BATCH * HEADS * TOKENS**2 * WIDTH
    assert cost.flops == 7 * product
