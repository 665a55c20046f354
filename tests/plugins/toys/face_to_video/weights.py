"""How its weights are published: the layer for the face; adapters go to diffusers (convert.py kind=lora)."""

from torch import Tensor

from face_to_video.network import FaceToVideoNetwork
from portraitgen.training.published import Kind

KINDS: dict[str, Kind] = {}


def publish(network: FaceToVideoNetwork) -> dict[str, dict[str, Tensor]]:
    return {"face.safetensors": network.face.state_dict()}
