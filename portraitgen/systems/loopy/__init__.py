"""Loopy (arXiv:2409.02634): a photo and a sound become a talking head, with long-term motion."""
