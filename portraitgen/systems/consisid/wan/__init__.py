"""ConsisID's identity modules on Wan 2.1 (arXiv:2503.20314), which nobody has published."""
