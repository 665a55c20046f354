"""What generate.py does."""
