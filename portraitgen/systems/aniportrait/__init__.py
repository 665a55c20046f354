"""AniPortrait: portrait video driven by landmarks, pose or audio (arXiv 2403.17694)."""
