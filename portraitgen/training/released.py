"""What a system says in its `weights.py` of the weights that its authors released, and of all they need.

`generate.py weights=released:<system>` finds there `RELEASED`: the files, where they come from, and which
settings of generate.py they fill.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ReleasedPart:
    """Files of one folder that fill one setting.

    Attributes:
        fills: the setting of generate.py that is set to them, such as "inputs.audio2mesh"; where it is given,
            they are not needed. "weights" is the system's own.
        source: id on the Hugging Face hub, or, of one file, its https address.
        licence: under which the source gives them.
        folder: below `paths.models` where they lie.
        files: their names in the folder, which are those in the source; of several names for one the first is
            the one to fetch.
        use: the file or folder in `folder` that the setting is set to; "": the folder.
        kind: of `KINDS`, by which they become a weights file first; None: they are used as they are.
        needed_for: the input that needs them, such as "audio"; None: whatever is generated.
        unless: settings with which they are not needed.
    """

    fills: str
    source: str
    licence: str
    folder: str
    files: tuple[str | tuple[str, ...], ...]
    use: str = ""
    kind: str | None = None
    needed_for: str | None = None
    unless: tuple[str, ...] = ()


SD_VAE = ReleasedPart(
    "model.codec.vae.pretrained_model_name_or_path",
    "stabilityai/sd-vae-ft-mse",
    "MIT",
    "sd-vae-ft-mse",
    ("config.json", ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin")),
)
"""The autoencoder of all that is released on Stable Diffusion 1.5."""


@dataclass(frozen=True, slots=True)
class Released:
    """All that generating with released weights takes.

    Attributes:
        parts: the files.
        faces: name of the face backend (conf/faces) of their training data; None: any.
    """

    parts: tuple[ReleasedPart, ...]
    faces: str | None = None
