"""The public CLIP of the scores, apart from the network: its library takes seconds to import."""

from portraitgen.media.public_weights import PublicFile

CLIP_WEIGHTS = PublicFile(
    "the folder of clip-vit-base-patch32", "huggingface.co/openai/clip-vit-base-patch32", "MIT"
)
