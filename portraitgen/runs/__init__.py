"""What the commands do; the only package that imports hydra."""
