"""Graftune: fine-tune pre-trained vision models by reusing the right pre-training data."""
