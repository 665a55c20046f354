"""Pictures of what a prompt says: Stable Diffusion (arXiv:2112.10752) that learns by adapters alone."""
