"""Features of every image of a dataset, by shards of its manifest."""
