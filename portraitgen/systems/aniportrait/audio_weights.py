"""Weights of the audio models in the names of the published ``audio2mesh.pt`` and ``audio2pose.pt``.

The names are ours but for the weight-normalised convolution, which old and new PyTorch name differently, and
the table of positions, which is computed.
"""

from collections.abc import Mapping

from torch import Tensor

from portraitgen.systems.aniportrait.audio2mesh import Audio2Mesh
from portraitgen.systems.aniportrait.audio2pose import Audio2Pose
from portraitgen.training.weights import load_into

# Published (old PyTorch) and ours; files saved with a new PyTorch have ours.
_WEIGHT_NORM = (
    (".conv.weight_g", ".conv.parametrizations.weight.original0"),
    (".conv.weight_v", ".conv.parametrizations.weight.original1"),
)
_POSITIONS = "PPE.pe"


def from_published_audio_name(name: str) -> str | None:
    """Our name of a published tensor of an audio model; None for its table of positions."""
    if name == _POSITIONS:
        return None
    for published, ours in _WEIGHT_NORM:
        name = name.replace(published, ours)
    return name


def from_published_audio(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of a published file in our names, its table of positions left out."""
    return {ours: value for name, value in tensors.items() if (ours := from_published_audio_name(name))}


def load_published_audio(model: Audio2Mesh | Audio2Pose, tensors: Mapping[str, Tensor]) -> None:
    """Load tensors in published names: all that `model` has, and nothing else.

    Raises ``ValueError`` when names or shapes differ, listing them; nothing is loaded then.
    """
    load_into(model, from_published_audio(tensors), source="the published audio weights")


def published_audio_state(model: Audio2Mesh | Audio2Pose) -> dict[str, Tensor]:
    """The model's tensors in published names, with the table of positions where it has one."""
    tensors: dict[str, Tensor] = {}
    for name, value in model.state_dict().items():
        for published, ours in _WEIGHT_NORM:
            name = name.replace(ours, published)
        tensors[name] = value
    if isinstance(model, Audio2Pose):
        tensors[_POSITIONS] = model.positions[None]
    return tensors
