"""From raw files to shards, and from shards to batches."""
