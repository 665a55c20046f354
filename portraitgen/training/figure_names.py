"""How figures of a run's log and the folder of its rounds are called."""

GRADED = "grade/"
"""In front of those of generated clips, which callbacks.grading takes."""

ROUNDS = "graded"
"""Folder of a run that holds the rounds of callbacks.grading."""
