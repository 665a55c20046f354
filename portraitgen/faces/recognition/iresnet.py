"""IResNet, the residual network of ArcFace and CurricularFace, with the names of insightface's arcface_torch.

Deng et al., "ArcFace", CVPR 2019; Huang et al., "CurricularFace", CVPR 2020.
"""

import re

from torch import Tensor, nn

from portraitgen.faces.templates import ARCFACE, FaceTemplate

DEPTHS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 14, 3), 100: (3, 13, 30, 3), 200: (6, 26, 60, 6)}
"""Depth → blocks in each of the four stages. TFace calls its network of 100 layers IR_101."""
WIDTHS = (64, 128, 256, 512)
_MAP_SIDE = ARCFACE.side // 2 ** len(WIDTHS)


class IResNet(nn.Module):
    """Embedding of aligned faces 112x112; not normalised, as the published networks give it.

    Args:
        depth: a key of `DEPTHS`.
        embedding_dim: D.
        tface: TFace's variant (IR_101 of CurricularFace, in ConsisID and UniPortrait): the first shortcut
            drops pixels instead of learning a projection, and the embedding's normalisation has no weights.
    """

    template: FaceTemplate = ARCFACE
    stage_widths = WIDTHS

    def __init__(self, depth: int, *, embedding_dim: int = 512, tface: bool = False) -> None:
        super().__init__()
        self.embedding_dim = embedding_dim
        self.conv1 = nn.Conv2d(3, WIDTHS[0], 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(WIDTHS[0])
        self.prelu = nn.PReLU(WIDTHS[0])
        channels = WIDTHS[0]
        for stage, (count, width) in enumerate(zip(DEPTHS[depth], WIDTHS, strict=True), start=1):
            project = not tface or channels != width
            first = _Block(channels, width, stride=2, project=project)
            rest = [_Block(width, width, stride=1, project=False) for _ in range(count - 1)]
            self.add_module(f"layer{stage}", nn.Sequential(first, *rest))
            channels = width
        self.bn2 = nn.BatchNorm2d(channels)
        self.fc = nn.Linear(channels * _MAP_SIDE**2, embedding_dim)
        self.features = nn.BatchNorm1d(embedding_dim, affine=not tface)

    def stages(self, crops: Tensor) -> list[Tensor]:
        """Maps after each of the four stages: [B, 64, 56, 56], [B, 128, 28, 28], … of crops as `forward`."""
        maps = [self.prelu(self.bn1(self.conv1(crops)))]
        for stage in range(1, len(WIDTHS) + 1):
            maps.append(self.get_submodule(f"layer{stage}")(maps[-1]))
        return maps[1:]

    def forward(self, crops: Tensor) -> Tensor:
        """Embeddings [B, D] of RGB crops [B, 3, 112, 112] in [-1, 1] (`templates.ARCFACE`)."""
        return self.head(self.stages(crops)[-1])

    def head(self, maps: Tensor) -> Tensor:
        """Embeddings [B, D] of the maps after the last stage."""
        return self.features(self.fc(self.bn2(maps).flatten(1)))


class _Block(nn.Module):
    def __init__(self, channels: int, width: int, *, stride: int, project: bool) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv1 = nn.Conv2d(channels, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.prelu = nn.PReLU(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride=stride, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(width)
        self.stride = stride
        self.downsample = (
            nn.Sequential(nn.Conv2d(channels, width, 1, stride=stride, bias=False), nn.BatchNorm2d(width))
            if project
            else None
        )

    def forward(self, maps: Tensor) -> Tensor:
        if self.downsample is not None:
            shortcut = self.downsample(maps)
        else:
            shortcut = maps[..., :: self.stride, :: self.stride]
        return self.bn3(self.conv2(self.prelu(self.bn2(self.conv1(self.bn1(maps)))))) + shortcut


def arcface_depth(names: dict[str, Tensor]) -> int | None:
    """Depth of the network whose state dict this is, None when it is not one in arcface_torch's format."""
    counts = [
        len({name.split(".")[1] for name in names if name.startswith(f"layer{stage}.")})
        for stage in range(1, len(WIDTHS) + 1)
    ]
    return next((depth for depth, blocks in DEPTHS.items() if list(blocks) == counts), None)


def from_tface(name: str, depth: int = 100) -> str:
    """Our name of a tensor of TFace's IR_18 … IR_101; names that are not theirs stay."""
    for pattern, new in _TFACE_NAMES:
        if match := re.fullmatch(pattern, name):
            name = match.expand(new)
            break
    if match := re.fullmatch(r"body\.(\d+)\.(.+)", name):
        block, part = int(match[1]), match[2]
        for stage, count in enumerate(DEPTHS[depth], start=1):
            if block < count:
                return f"layer{stage}.{block}.{part}"
            block -= count
    return name


_TFACE_NAMES = [
    (r"input_layer\.0\.(.+)", r"conv1.\1"),
    (r"input_layer\.1\.(.+)", r"bn1.\1"),
    (r"input_layer\.2\.(.+)", r"prelu.\1"),
    (r"output_layer\.0\.(.+)", r"bn2.\1"),
    (r"output_layer\.3\.(.+)", r"fc.\1"),
    (r"output_layer\.4\.(.+)", r"features.\1"),
    (r"(body\.\d+)\.shortcut_layer\.(.+)", r"\1.downsample.\2"),
    *(
        (rf"(body\.\d+)\.res_layer\.{place}\.(.+)", rf"\1.{part}.\2")
        for place, part in enumerate(("bn1", "conv1", "bn2", "prelu", "conv2", "bn3"))
    ),
]
