"""SyncNet: whether lips and sound belong together, as distances between features of both (public weights)."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from portraitgen.media.public_weights import PublicFile, load_public_weights
from portraitgen.metrics.frames import is_still
from portraitgen.metrics.last_seen import LastStill
from portraitgen.metrics.mfcc import STEP, mfcc
from portraitgen.metrics.networks.channels_last import channels_last
from portraitgen.metrics.networks.fused_norms import fuse_norms

SIZE = 224
"""Height and width of the face crop."""
FPS = 25
WINDOW = 5
"""Video frames in a window (0.2 s)."""
AUDIO_WINDOW = 20
"""MFCC frames in a window (0.2 s)."""
SAMPLES_PER_FRAME = 640
NUM_FEATURES = 1024
CHUNK = 4
"""Windows taken through the networks at a time, so that memory does not grow with the clip."""

WEIGHTS = PublicFile(
    "syncnet_v2.model",
    "the VGG group of Oxford, https://www.robots.ox.ac.uk/~vgg/software/lipsync/data/syncnet_v2.model",
    "code MIT (joonson/syncnet_python); the weights state none",
)


class SyncNet(nn.Module):
    """Chung and Zisserman, "Out of time: automated lip sync in the wild", 2016; names of the public weights.

    The lip network's only temporal kernel is its first, of 5 frames, so a longer clip gives one feature for
    each of its windows.
    """

    def __init__(self) -> None:
        super().__init__()
        self.netcnnaud = nn.Sequential(
            *_unit(nn.Conv2d(1, 64, 3, padding=1)),
            nn.Identity(),  # a pooling of one pixel in the original, which numbers the layers after it
            *_unit(nn.Conv2d(64, 192, 3, padding=1)),
            nn.MaxPool2d(3, stride=(1, 2)),
            *_unit(nn.Conv2d(192, 384, 3, padding=1)),
            *_unit(nn.Conv2d(384, 256, 3, padding=1)),
            *_unit(nn.Conv2d(256, 256, 3, padding=1)),
            nn.MaxPool2d(3, stride=2),
            *_unit(nn.Conv2d(256, 512, (5, 4))),
        )
        self.netfcaud = _head()
        self.netfclip = _head()
        pool = ((1, 3, 3), (1, 2, 2))
        self.netcnnlip = nn.Sequential(
            *_unit(nn.Conv3d(3, 96, (WINDOW, 7, 7), stride=(1, 2, 2))),
            nn.MaxPool3d(*pool),
            *_unit(nn.Conv3d(96, 256, (1, 5, 5), stride=(1, 2, 2), padding=(0, 1, 1))),
            nn.MaxPool3d(*pool, padding=(0, 1, 1)),
            *_unit(nn.Conv3d(256, 256, (1, 3, 3), padding=(0, 1, 1))),
            *_unit(nn.Conv3d(256, 256, (1, 3, 3), padding=(0, 1, 1))),
            *_unit(nn.Conv3d(256, 256, (1, 3, 3), padding=(0, 1, 1))),
            nn.MaxPool3d(*pool),
            *_unit(nn.Conv3d(256, 512, (1, 6, 6))),
        )

    def embed_lips(self, frames: Tensor) -> Tensor:
        """Features [B, T - 4, 1024] of every window of 5 frames.

        Args:
            frames: [B, 3, T, 224, 224], BGR, 0 to 255, T at least 5.
        """
        features = self.netcnnlip(frames).flatten(2).mT
        return self.netfclip(features.flatten(0, 1)).unflatten(0, features.shape[:2])

    def embed_audio(self, cepstra: Tensor) -> Tensor:
        """Features [B, 1024] of windows [B, 1, 13, 20]: coefficients by MFCC frames."""
        return self.netfcaud(self.netcnnaud(cepstra).flatten(1))


def load_syncnet(path: Path | str) -> SyncNet:
    """SyncNet with the public weights, frozen.

    Raises:
        ValueError: as `load_public_weights`.
    """
    return channels_last(fuse_norms(load_public_weights(SyncNet(), path, WEIGHTS)))


def num_windows(num_frames: int, num_samples: int) -> int:
    """Windows that the reference compares in so many frames at 25 fps and samples at 16 kHz."""
    return max(min(num_frames, num_samples // SAMPLES_PER_FRAME) - WINDOW, 0)


class LipFeatures:
    """Features of every window of lips, from face crops that come a few at a time.

    Args:
        network: frozen.
        count: windows wanted, from the first on.
    """

    def __init__(self, network: SyncNet, count: int) -> None:
        self._network, self._count = network.eval(), count
        self._waiting = torch.zeros(0, 3, SIZE, SIZE, dtype=torch.uint8)
        # In one piece: many small ones lie between what is freed, which then cannot leave the process.
        self._found = torch.empty(count, NUM_FEATURES, device=next(network.parameters()).device)
        self._done = 0
        self._still: LastStill[Tensor] = LastStill()

    def put(self, crops: Tensor) -> None:
        """Take the next crops, uint8 [N, 3, 224, 224] RGB; those beyond the last window are left out."""
        wanted = self._count - self._done + WINDOW - 1
        self._waiting = torch.cat([self._waiting, crops])[:wanted]
        while self._done + CHUNK <= self._count and len(self._waiting) >= CHUNK + WINDOW - 1:
            self._embed(CHUNK)

    def end(self) -> Tensor:
        """Features float32 [count, 1024], on the network's device."""
        left = self._count - self._done
        assert len(self._waiting) >= left + WINDOW - 1 or not left, "fewer crops than windows"
        while left := self._count - self._done:
            self._embed(min(left, CHUNK))
        return self._found

    @torch.no_grad()
    def _embed(self, count: int) -> None:
        """The next windows, and forget the crops that no other has."""
        crops = self._waiting[: count + WINDOW - 1]
        still = is_still(crops)

        def look() -> Tensor:
            clip = crops[:WINDOW] if still else crops
            clip = clip.to(self._found.device).flip(1).float()
            return self._network.embed_lips(clip.transpose(0, 1)[None])[0]

        features = self._still.of(crops[0], look) if still else look()
        self._found[self._done : self._done + count] = features
        self._waiting = self._waiting[count:].clone()
        self._done += count


@torch.no_grad()
def embed_sound(network: SyncNet, audio: np.ndarray, count: int) -> Tensor:
    """Features float32 [count, 1024] of the first windows of a sound, [N] float mono in [-1, 1] at 16 kHz."""
    device = next(network.parameters()).device
    if not count:
        return torch.zeros(0, NUM_FEATURES, device=device)
    # 16-bit samples as a WAV file holds them: the network knows no other loudness.
    cepstra = mfcc(np.clip(np.round(audio * 32768.0), -32768, 32767)).astype(np.float32)
    windows = torch.from_numpy(cepstra).unfold(0, AUDIO_WINDOW, SAMPLES_PER_FRAME // STEP)[:count, None]
    network.eval()
    return torch.cat([network.embed_audio(chunk.to(device)) for chunk in windows.split(CHUNK)])


def embed_clip(network: SyncNet, frames: Tensor, audio: np.ndarray) -> tuple[Tensor, Tensor]:
    """Lip and audio features of every window of one clip.

    The features are those of windows seen one by one: batch normalisation is that of training.

    Args:
        frames: [T, 3, 224, 224] uint8 RGB at 25 fps, the face cropped as SyncNet's pipeline crops it.
        audio: [N] float mono in [-1, 1] at 16 kHz that begins with the first frame.

    Returns:
        Two float32 [num_windows(T, N), 1024], on the network's device.

    Raises:
        ValueError: frames of another size or type, or audio with more than one channel.
    """
    if frames.dtype != torch.uint8 or frames.ndim != 4 or frames.shape[1:] != (3, SIZE, SIZE):
        raise ValueError(
            f"SyncNet needs uint8 RGB face crops [T, 3, {SIZE}, {SIZE}], got {frames.dtype} "
            f"{list(frames.shape)}"
        )
    count = num_windows(len(frames), len(audio))
    lips = LipFeatures(network, count)
    for chunk in frames.split(CHUNK):
        lips.put(chunk.cpu())
    return lips.end(), embed_sound(network, audio, count)


def _unit(convolution: nn.Conv2d | nn.Conv3d) -> tuple[nn.Module, nn.Module, nn.Module]:
    channels = convolution.out_channels
    norm = nn.BatchNorm2d(channels) if isinstance(convolution, nn.Conv2d) else nn.BatchNorm3d(channels)
    return convolution, norm, nn.ReLU(inplace=True)


def _head() -> nn.Sequential:
    return nn.Sequential(nn.Linear(512, 512), nn.BatchNorm1d(512), nn.ReLU(), nn.Linear(512, NUM_FEATURES))
