"""Shards that lie elsewhere: object stores and servers by byte ranges, or whole where there are none."""
