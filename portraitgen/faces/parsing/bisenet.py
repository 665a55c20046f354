"""BiSeNet (Yu et al. 2018, arXiv:1808.00897) as face-parsing trained it on CelebAMask-HQ: 19 classes a pixel.

Its spatial path is the ResNet's map at an eighth, not one of its own. Names of tensors are those of the
published file; its two heads for training are left aside.
"""

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from portraitgen.media.public_weights import PublicFile, fill_strictly, read_public_tensors

NUM_CLASSES = 19
WEIGHTS = PublicFile(
    "parsing_bisenet.pth",
    "the releases of xinntao/facexlib (v0.2.0), or face_encoder/ of BestWishYsh/ConsisID-preview",
    "MIT; trained on CelebAMask-HQ, which is for non-commercial research only",
)
_HEADS_OF_TRAINING = ("conv_out16.", "conv_out32.")


class BiSeNet(nn.Module):
    """Pictures [B, 3, H, W], normalised as ImageNet's, sides multiples of 32 → scores [B, 19, H, W]."""

    def __init__(self) -> None:
        super().__init__()
        self.cp = _ContextPath()
        self.ffm = _Fusion(256, 256)
        self.conv_out = _Head(256, 256)

    def forward(self, pictures: Tensor) -> Tensor:
        eighth, context = self.cp(pictures)
        scores = self.conv_out(self.ffm(torch.cat([eighth, context], dim=1)))
        return F.interpolate(scores, pictures.shape[-2:], mode="bilinear", align_corners=True)


class _ConvNormReLU(nn.Module):
    def __init__(self, channels: int, width: int, kernel: int = 3) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, width, kernel, padding=kernel // 2, bias=False)
        self.bn = nn.BatchNorm2d(width)

    def forward(self, maps: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(maps)))


class _Residual(nn.Module):
    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample: nn.Module = nn.Identity()
        if stride > 1 or channels != width:
            shrink = nn.Conv2d(channels, width, 1, stride=stride, bias=False)
            self.downsample = nn.Sequential(shrink, nn.BatchNorm2d(width))

    def forward(self, maps: Tensor) -> Tensor:
        changed = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(maps)))))
        return F.relu(self.downsample(maps) + changed)


class _ResNet18(nn.Module):
    """Maps at an eighth, a sixteenth and a thirty-second."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.layer1 = nn.Sequential(_Residual(64, 64, 1), _Residual(64, 64, 1))
        self.layer2 = nn.Sequential(_Residual(64, 128, 2), _Residual(128, 128, 1))
        self.layer3 = nn.Sequential(_Residual(128, 256, 2), _Residual(256, 256, 1))
        self.layer4 = nn.Sequential(_Residual(256, 512, 2), _Residual(512, 512, 1))

    def forward(self, pictures: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        maps = F.max_pool2d(F.relu(self.bn1(self.conv1(pictures))), 3, stride=2, padding=1)
        eighth = self.layer2(self.layer1(maps))
        sixteenth = self.layer3(eighth)
        return eighth, sixteenth, self.layer4(sixteenth)


class _Refinement(nn.Module):
    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.conv = _ConvNormReLU(channels, width)
        self.conv_atten = nn.Conv2d(width, width, 1, bias=False)
        self.bn_atten = nn.BatchNorm2d(width)

    def forward(self, maps: Tensor) -> Tensor:
        maps = self.conv(maps)
        gate = self.bn_atten(self.conv_atten(maps.mean(dim=(2, 3), keepdim=True))).sigmoid()
        refined: Tensor = maps * gate
        return refined


class _ContextPath(nn.Module):
    """The ResNet's map at an eighth, and what is seen around it, at an eighth too."""

    def __init__(self) -> None:
        super().__init__()
        self.resnet = _ResNet18()
        self.arm16, self.arm32 = _Refinement(256, 128), _Refinement(512, 128)
        self.conv_head32, self.conv_head16 = _ConvNormReLU(128, 128), _ConvNormReLU(128, 128)
        self.conv_avg = _ConvNormReLU(512, 128, kernel=1)

    def forward(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        eighth, sixteenth, smallest = self.resnet(pictures)
        everything = self.conv_avg(smallest.mean(dim=(2, 3), keepdim=True))
        context = self.conv_head32(F.interpolate(self.arm32(smallest) + everything, sixteenth.shape[-2:]))
        return eighth, self.conv_head16(F.interpolate(self.arm16(sixteenth) + context, eighth.shape[-2:]))


class _Fusion(nn.Module):
    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.convblk = _ConvNormReLU(channels, width, kernel=1)
        self.conv1 = nn.Conv2d(width, width // 4, 1, bias=False)
        self.conv2 = nn.Conv2d(width // 4, width, 1, bias=False)

    def forward(self, maps: Tensor) -> Tensor:
        maps = self.convblk(maps)
        gate = self.conv2(F.relu(self.conv1(maps.mean(dim=(2, 3), keepdim=True)))).sigmoid()
        fused: Tensor = maps * gate + maps
        return fused


class _Head(nn.Module):
    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.conv = _ConvNormReLU(channels, width)
        self.conv_out = nn.Conv2d(width, NUM_CLASSES, 1, bias=False)

    def forward(self, maps: Tensor) -> Tensor:
        scores: Tensor = self.conv_out(self.conv(maps))
        return scores


def load_bisenet(path: Path | str) -> BiSeNet:
    """With published weights, frozen and in evaluation mode.

    Raises:
        ValueError: no such file, or it does not fit; what to fetch.
    """
    tensors = read_public_tensors(path, WEIGHTS)
    used = {name: value for name, value in tensors.items() if not name.startswith(_HEADS_OF_TRAINING)}
    return fill_strictly(BiSeNet(), used, path=path, public=WEIGHTS)
