"""Key points drawn as ConsisID draws them."""

import numpy as np
import pytest
from PIL import Image

from portraitgen.faces.key_point_drawing import draw_key_points

FACE = np.array([[192.98, 239.95], [318.90, 240.19], [256.63, 314.02], [201.26, 371.41], [313.09, 371.15]])


@pytest.mark.parametrize("size", [(512, 512), (480, 720)])
@pytest.mark.parametrize("seed", range(6))
def test_a_drawing_is_that_of_the_official_pipeline(seed, size):
    from diffusers.pipelines.consisid.pipeline_consisid import draw_kps

    points = FACE + np.random.default_rng(seed).normal(0, 12 * seed, (5, 2))
    expected = np.asarray(draw_kps(Image.new("RGB", size[::-1]), points))
    assert np.array_equal(draw_key_points(points, size), expected)
