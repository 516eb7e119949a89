"""Weights between the backbone with its linear probe and a fine-tuned model."""
