"""A linear classifier of frozen features."""
