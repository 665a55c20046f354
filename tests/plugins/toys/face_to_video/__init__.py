"""Clips of a person doing what a prompt says: CogVideoX (arXiv:2408.06072), told the face by its latents."""
