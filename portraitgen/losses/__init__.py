"""Losses beside the objective's: what they see of a training step, and what they give."""
