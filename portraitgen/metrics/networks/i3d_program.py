"""StyleGAN-V's I3D, a TorchScript file: the network of `I3D` with the weights of TensorFlow's original."""

from pathlib import Path

import torch
from torch import Tensor, nn

from portraitgen.media.public_weights import PublicFile, find_public_file
from portraitgen.metrics.networks.i3d import preprocess_clips

PROGRAM = PublicFile(
    "i3d_torchscript.pt",
    "universome/stylegan-v (its FVD detector, https://www.dropbox.com/s/ge9e5ujwgetktms/i3d_torchscript.pt)",
    "Apache-2.0 (DeepMind's Kinetics-I3D)",
)


class I3DProgram(nn.Module):
    """Runs a TorchScript I3D on clips that are prepared here, as `I3D` prepares its own.

    A TorchScript file is a program: it runs what is written in it. Give only a file that you trust.

    Args:
        path: the file; called as detector(clips, rescale=False, resize=False, return_features=True).

    Raises:
        ValueError: no such file, or no TorchScript in it.
    """

    def __init__(self, path: Path | str) -> None:
        super().__init__()
        file = find_public_file(path, PROGRAM)
        try:
            self.program = torch.jit.load(str(file), map_location="cpu").eval()
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[0]
            raise ValueError(f"{file} is no TorchScript ({reason}); fetch {PROGRAM}") from error

    def forward(self, clips: Tensor) -> Tensor:
        """Kinetics-400 logits float32 [B, 400] of clips [B, T, 3, H, W], uint8 or float in [-1, 1]."""
        logits: Tensor = self.program(
            preprocess_clips(clips), rescale=False, resize=False, return_features=True
        )
        return logits
