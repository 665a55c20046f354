"""Upright crops: those that the public recognition networks were trained on."""

from dataclasses import replace
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

from portraitgen.faces.templates import ARCFACE, FaceTemplate, upright_crop


def test_crops_are_insightfaces(shared: Path) -> None:
    """On key points of all kinds: in profile, upside down, mirrored, beyond the picture."""
    golden = load_file(shared / "golden" / "faceloss_align.safetensors")
    image, keypoints = golden["image_bgr_u8"], golden["kps"].astype(np.float32)
    for side in (112, 224):
        crops = golden[f"crop_{side}_u8"].astype(int)
        template = ARCFACE.scaled(side)

        def differences(template: FaceTemplate, crops: np.ndarray = crops) -> np.ndarray:
            ours = np.stack([upright_crop(image, points, template) for points in keypoints[: len(crops)]])
            return np.abs(ours - crops)

        found = differences(template)
        assert found.max() <= 2, "rounded levels"
        assert found.mean() < 0.2
        half_a_pixel_off = differences(replace(template, whole_is_centre=False))
        assert half_a_pixel_off.mean() > 10 * found.mean()
