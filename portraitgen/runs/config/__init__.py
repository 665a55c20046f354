"""Configurations of commands: composed, checked, and what they may name."""
