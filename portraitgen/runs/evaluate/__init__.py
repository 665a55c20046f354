"""What evaluate.py does."""
