"""Training data in the layouts of others, read and written."""
