"""AniPortrait: portrait video driven by landmarks, pose or audio (arXiv 2403.17694)."""

CONFIGURABLE = ("audio2mesh.offsets_of_sound", "audio2pose.poses_of_sound")
"""Functions that a configuration may name in `_target_`."""
