"""Join the shards of a dataset's features or hashes."""
