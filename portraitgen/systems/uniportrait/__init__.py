"""UniPortrait (arXiv:2408.05939): text and the faces of one or several people → images that show them."""

CONFIGURABLE = ("features.published_features", "features.untrained_features")
"""Functions that a configuration may name in `_target_`."""
