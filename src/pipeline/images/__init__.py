"""Decoded images: from encoded bytes or files to upright RGB, and the cache that training reads."""
