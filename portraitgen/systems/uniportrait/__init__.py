"""UniPortrait (arXiv:2408.05939): text and the faces of one or several people → images that show them."""
