"""Ports of published networks whose features the figures are taken of."""
