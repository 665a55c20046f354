"""MobileFace V2, a small recognition network (256-d, 0.9 million parameters, MIT): quick identity losses."""

from torch import Tensor, nn

from portraitgen.faces.templates import ARCFACE, FaceTemplate

_STEM = 32
_WIDTHS = (32, 32, 64, 128)
"""Channels of the four groups, each of one block of stride 2 and two of stride 1."""
_BLOCKS_PER_GROUP = 3
_EXPANSION = 3
_MAP_SIDE = 4
_EPS = 1e-3


class MobileFace(nn.Module):
    """becauseofAI/MobileFace, `MobileFace_Identification_V2`: MobileNetV2 for faces of 112x112."""

    template: FaceTemplate = ARCFACE
    embedding_dim = 256
    stage_widths = _WIDTHS

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, _STEM, 3, stride=2, padding=1)
        self.bn1 = nn.BatchNorm2d(_STEM, eps=_EPS)
        self.relu = nn.ReLU6()
        channels = _STEM
        blocks = []
        for width in _WIDTHS:
            for place in range(_BLOCKS_PER_GROUP):
                blocks.append(_Block(channels, width, stride=2 if place == 0 else 1))
                channels = width
        self.body = nn.Sequential(*blocks)
        self.fc = nn.Linear(channels * _MAP_SIDE**2, self.embedding_dim, bias=False)
        self.fc_bn = nn.BatchNorm1d(self.embedding_dim, eps=_EPS)

    def stages(self, crops: Tensor) -> list[Tensor]:
        """Maps after each of the four groups: [B, 32, 28, 28], … [B, 128, 4, 4] of crops as `forward`."""
        maps = self.relu(self.bn1(self.conv1(crops * (127.5 / 128))))
        found = []
        for place, block in enumerate(self.body, start=1):
            maps = block(maps)
            if place % _BLOCKS_PER_GROUP == 0:
                found.append(maps)
        return found

    def forward(self, crops: Tensor) -> Tensor:
        """Embeddings [B, 256] of RGB crops [B, 3, 112, 112] in [-1, 1] (`templates.ARCFACE`)."""
        return self.head(self.stages(crops)[-1])

    def head(self, maps: Tensor) -> Tensor:
        """Embeddings [B, 256] of the maps after the last group."""
        return self.fc_bn(self.fc(maps.flatten(1)))


class _Block(nn.Module):
    """Expand, filter each channel, project: an inverted residual."""

    def __init__(self, channels: int, width: int, *, stride: int) -> None:
        super().__init__()
        inner = channels * _EXPANSION
        self.a = nn.Sequential(nn.Conv2d(channels, inner, 1, bias=False), nn.BatchNorm2d(inner, eps=_EPS))
        self.d = nn.Sequential(
            nn.Conv2d(inner, inner, 3, stride=stride, padding=1, groups=inner, bias=False),
            nn.BatchNorm2d(inner, eps=_EPS),
        )
        self.p = nn.Sequential(nn.Conv2d(inner, width, 1, bias=False), nn.BatchNorm2d(width, eps=_EPS))
        self.residual = stride == 1
        self.relu = nn.ReLU6()

    def forward(self, maps: Tensor) -> Tensor:
        projected = self.p(self.relu(self.d(self.relu(self.a(maps)))))
        return maps + projected if self.residual else projected
