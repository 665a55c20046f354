"""Engines: where the jobs of a preparation run."""
