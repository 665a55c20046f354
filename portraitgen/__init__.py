"""portraitgen: train, generate and grade portrait generators."""
