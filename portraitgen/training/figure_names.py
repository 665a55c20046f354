"""How figures of a run's log are called."""

GRADED = "grade/"
"""In front of those of generated clips, which callbacks.grading takes."""
