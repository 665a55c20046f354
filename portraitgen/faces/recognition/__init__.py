"""Recognition networks as differentiable modules: who a face is, for grading and for identity losses."""
