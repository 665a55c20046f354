"""How the toy's weights are published."""

from torch import Tensor, nn

from portraitgen.training.published import Kind

KINDS: dict[str, Kind] = {}


def publish(network: nn.Module) -> dict[str, dict[str, Tensor]]:
    return {"toy.safetensors": {f"published.{name}": value for name, value in network.state_dict().items()}}
