"""What a photo shows of a face, for the resampler: who it is, and how it looks (arXiv:2408.05939, 3.2)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from portraitgen.faces.recognition.iresnet import IResNet
from portraitgen.faces.recognition.mobileface import MobileFace
from portraitgen.faces.recognition.recognizer import FaceRecognizer, load_recognition
from portraitgen.nn.clip_image import ClipImageEncoder

_GRID = 16
"""Side of the map of structural features: CLIP ViT-H/14 has that many patches a side."""


class FaceFeatures(nn.Module):
    """Upright crops of faces → intrinsic features and structural ones; frozen.

    Intrinsic are the places of the recognition network's last map, as they stand before its embedding;
    structural are its earlier maps, resized to CLIP's patches, beside CLIP's tokens of the last layer
    but one. None of them is normalised (UniPortrait's issues 5 and 6).

    Args:
        face: recognition network; UniPortrait's is curricularface.
        clip: image encoder with 16x16 patches; UniPortrait's is the ViT-H/14 of IP-Adapter. None leaves its
            tokens out.

    Attributes:
        intrinsic_dim, structure_dim: widths of the features.

    Raises:
        ValueError: the network gives no maps, or CLIP has another number of patches.
    """

    def __init__(self, face: FaceRecognizer, clip: ClipImageEncoder | None) -> None:
        super().__init__()
        network = face.network
        if not isinstance(network, IResNet | MobileFace):
            raise ValueError(
                f"{face.name} gives no maps of its stages: condition on curricularface, arcface or mobileface"
            )
        if clip is not None and clip.num_patches != _GRID**2:
            raise ValueError(
                f"this CLIP has {clip.num_patches} patches, but faces' maps are resized to {_GRID}x{_GRID}: "
                "use one of 224 pixels with patches of 14, such as ViT-H/14"
            )
        self.face = face
        self.clip = clip
        self.intrinsic_dim = network.stage_widths[-1]
        self.structure_dim = sum(network.stage_widths[:-1]) + (0 if clip is None else clip.token_dim)

    @torch.no_grad()
    def forward(self, crops: Tensor) -> tuple[Tensor, Tensor]:
        """Intrinsic [B, n, intrinsic_dim] and structural features [B, 256, structure_dim], float32.

        Args:
            crops: [B, 3, S, S] in [-1, 1], upright by the network's template; 224 pixels are best, the side
                of CLIP's picture.
        """
        crops = crops.float()
        network = self.face.network
        assert isinstance(network, IResNet | MobileFace)
        side = network.template.side
        with torch.autocast(crops.device.type, enabled=False):
            maps = network.stages(F.interpolate(crops.clamp(-1, 1), (side, side), mode="bilinear"))
        resized = [F.interpolate(each, (_GRID, _GRID), mode="bilinear") for each in maps[:-1]]
        structure = torch.cat(resized, dim=1).flatten(2).mT
        if self.clip is not None:
            structure = torch.cat([structure, self.clip.tokens(crops).float()], dim=-1)
        return maps[-1].flatten(2).mT, structure

    @torch.no_grad()
    def nobody(self, intrinsic: Tensor) -> tuple[Tensor, Tensor]:
        """What stands for no face, [1, n, …] and [1, 256, …], for a photo's `intrinsic` features [B, n, …].

        Zeros, and CLIP's tokens of a picture that is zero in its own range.
        """
        structure = intrinsic.new_zeros(1, _GRID**2, self.structure_dim)
        if self.clip is not None:
            structure[..., -self.clip.token_dim :] = self.clip.gray_tokens().to(structure)
        return intrinsic.new_zeros(1, *intrinsic.shape[1:]), structure


def published_features(*, recognition: str, path: str, clip: ClipImageEncoder | None) -> FaceFeatures:
    """With a published recognition network.

    Args:
        recognition, path: its name and file, see `load_recognition`.
        clip: see `FaceFeatures`.

    Raises:
        ValueError: no such file, or it does not fit.
    """
    return FaceFeatures(load_recognition(recognition, path), clip)


def untrained_features(*, seed: int = 0) -> FaceFeatures:
    """With a small recognition network whose random weights follow from `seed`, without CLIP: for tests."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = MobileFace()
    return FaceFeatures(FaceRecognizer(network, name=f"untrained_{seed}", identity_threshold=1.0), None)
