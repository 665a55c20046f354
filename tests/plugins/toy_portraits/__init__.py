"""A system that another package brings: pictures of one or two people and a text."""
