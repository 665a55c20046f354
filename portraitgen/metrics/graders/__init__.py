"""Graders: each takes some figures of a clip or of a set of clips, as `portraitgen.metrics.grader` says."""
