"""ConsisID (arXiv:2411.17440): text and a face → a video of that person."""
