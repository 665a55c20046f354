"""Landmark files: the landmarks of one face along a video as plain arrays in an .npz, nothing pickled.

points       float32 [T, K, 2]    continuous pixels
scheme       text                 order and meaning of the points, "ibug68" or "mediapipe478"
size         int [2]              height and width of the picture
fps          int [2]              numerator and denominator
found        bool [T]             optional; False where the face was not found and is filled in
mesh         float32 [T, 478, 3]  optional; MediaPipe's own points: shares of width and height, and depth
blendshapes  float32 [T, 52]      with mesh
transforms   float32 [T, 4, 4]    with mesh; head poses. For other readers: here they follow from mesh
"""

import io
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from portraitgen.faces.face_geometry import face_geometry
from portraitgen.faces.landmark_sequence import LandmarkSequence
from portraitgen.media.bounded import parse_rate, read_arrays
from portraitgen.media.files import replace_file


def save_landmarks(path: Path, sequence: LandmarkSequence) -> None:
    """Write a landmark file; one that is there is replaced."""
    arrays: dict[str, Any] = {
        "points": sequence.points,
        "scheme": np.array(sequence.scheme),
        "size": np.array(sequence.image_size),
        "fps": np.array(sequence.fps.as_integer_ratio()),
        "found": sequence.found,
    }
    if sequence.mesh is not None and sequence.blendshapes is not None:
        poses = [face_geometry(mesh, image_size=sequence.image_size)[1] for mesh in sequence.mesh]
        arrays |= {
            "mesh": sequence.mesh,
            "blendshapes": sequence.blendshapes,
            "transforms": np.stack(poses).astype(np.float32),
        }
    content = io.BytesIO()
    np.savez_compressed(content, **arrays)
    replace_file(path, content.getvalue())


def load_landmarks(path: Path) -> LandmarkSequence:
    """Read a landmark file.

    Raises:
        ValueError: no such file, not an .npz of plain arrays, or arrays that are missing or do not fit.
    """
    try:
        arrays = read_arrays(path)
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: not a landmark file, an .npz of plain arrays ({error})") from error
    missing = [name for name in ("points", "scheme", "size", "fps") if name not in arrays]
    if missing:
        raise ValueError(f"{path}: not a landmark file, it has no {', '.join(missing)}")
    try:
        return LandmarkSequence(
            points=arrays["points"].astype(np.float32),
            scheme=str(arrays["scheme"]),
            image_size=(int(arrays["size"][0]), int(arrays["size"][1])),
            fps=parse_rate(Fraction(*map(int, arrays["fps"]))),
            found=arrays.get("found", np.ones(len(arrays["points"]), bool)),
            mesh=arrays.get("mesh"),
            blendshapes=arrays.get("blendshapes"),
        )
    except (ValueError, TypeError, IndexError, ArithmeticError) as error:
        raise ValueError(f"{path}: {error}") from error
