"""Bytes to tensors and back: video, audio, geometry, masks."""
