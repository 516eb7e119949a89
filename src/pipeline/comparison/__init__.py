"""The metrics of all runs side by side."""
