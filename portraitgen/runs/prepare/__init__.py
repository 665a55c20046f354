"""What prepare.py does: shards made, read, checked, and features beside them."""
