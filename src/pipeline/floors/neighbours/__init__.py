"""A k-nearest-neighbour classifier of frozen features."""
