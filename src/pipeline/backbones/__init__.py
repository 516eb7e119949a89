"""Encoders with their weights, preprocessing and feature layer."""
