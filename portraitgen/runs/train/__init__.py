"""What train.py does, and the folder of a run."""
