"""The formulas: objectives, timesteps, conditions, guidance, windows, sampling, latents."""
