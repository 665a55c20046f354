"""Flux with adapters that know whom to draw: somebody's photo, and a prompt or a hole to fill → a photo."""

CONFIGURABLE = ("redux.untrained_redux",)
"""Functions that a configuration may name in `_target_`."""
