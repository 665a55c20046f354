"""One folder a paper: network, module, pipeline."""
