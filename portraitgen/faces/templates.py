"""Where the five key points of a face lie in the upright crops that recognition networks look at."""

from dataclasses import dataclass

import numpy as np

from portraitgen.media.geometry import similarity_transform, warp_affine


@dataclass(frozen=True, slots=True, eq=False)
class FaceTemplate:
    """An upright crop of a face, given by where its key points lie.

    Attributes:
        side: height and width of the crop in pixels.
        keypoints: float64 [5, 2], where `Face.keypoints` come to lie, in pixels of the crop.
        whole_is_centre: whether the networks were trained on crops in which a whole number was taken for the
            centre of a pixel, of the crop and of the picture alike. Otherwise pixel i covers i to i + 1, as
            everywhere here.
    """

    side: int
    keypoints: np.ndarray
    whole_is_centre: bool

    def scaled(self, side: int) -> "FaceTemplate":
        """The template as insightface's `face_align` scales it: multiples of 112, or of 128 with margins.

        Raises:
            ValueError: another size.
        """
        if side % 112 == 0:
            return FaceTemplate(side, self.keypoints * (side / 112), self.whole_is_centre)
        if side % 128 == 0:
            return FaceTemplate(
                side, (self.keypoints + np.array([8.0, 0.0])) * (side / 128), self.whole_is_centre
            )
        raise ValueError(f"an ArcFace crop has a side that is a multiple of 112 or of 128, got {side}")


ARCFACE = FaceTemplate(
    112,
    np.array(
        [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]]
    ),
    whole_is_centre=True,
)
"""The 112x112 picture that ArcFace networks look at (insightface, `face_align`)."""

DLIB = FaceTemplate(
    150,
    np.array([[47.8, 46.4], [100.0, 46.4], [71.2, 77.1], [51.9, 103.0], [99.6, 103.0]]),
    whole_is_centre=False,
)
"""The 150x150 picture of dlib's network: medians of dlib's own alignment over 38 photos."""


FACEXLIB = FaceTemplate(
    512,
    np.array(
        [
            [192.98138, 239.94708],
            [318.90277, 240.1936],
            [256.63416, 314.01935],
            [201.26117, 371.41043],
            [313.08905, 371.15118],
        ]
    ),
    whole_is_centre=True,
)
"""The 512x512 picture of facexlib's restoration helper: as FFHQ, with all of the head."""


def upright_matrix(keypoints: np.ndarray, template: FaceTemplate) -> np.ndarray:
    """The map [2, 3] from the picture to the template's crop, for key points [5, 2]; in continuous pixels."""
    offset = 0.5 if template.whole_is_centre else 0.0
    return similarity_transform(keypoints + offset, template.keypoints + offset)


def upright_crop(
    image: np.ndarray,
    keypoints: np.ndarray,
    template: FaceTemplate,
    *,
    fill: tuple[int, int, int] = (0, 0, 0),
) -> np.ndarray:
    """A face cut out so that its key points come to lie where the template has them.

    Bilinear; with ARCFACE the same as insightface's `norm_crop`.

    Args:
        image: uint8 [H, W, 3].
        keypoints: float [5, 2], as in `Face.keypoints`.
        fill: colour outside the picture.

    Returns:
        uint8 [side, side, 3].
    """
    size = (template.side, template.side)
    return warp_affine(image, upright_matrix(keypoints, template), size, fill=fill)
