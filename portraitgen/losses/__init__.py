"""Losses beside the denoising objective."""
