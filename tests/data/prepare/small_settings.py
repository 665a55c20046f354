"""Settings under which a preparation takes no time."""

from typing import Any

from portraitgen.data.prepare.settings import PrepareSettings


def small_settings(**changes: Any) -> PrepareSettings:
    """Clips of 64 pixels and at most 10 frames, at the rate of their videos."""
    settings: dict[str, Any] = {
        "size": 64,
        "fps": None,
        "margin": 0.4,
        "min_frames": 4,
        "max_frames": 10,
        "crf": 18,
        "photo_size": 400,
        "videos_per_shard": 1,
        "photos_per_shard": 1,
        "licence": None,
    }
    return PrepareSettings(**settings | changes)
