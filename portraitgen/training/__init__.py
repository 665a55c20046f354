"""What every training run needs, whatever the system."""
