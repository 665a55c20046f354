"""The features that prepare.py can compute: each joins samples (data) and one kind of network."""
