"""The features of all runs on a target side by side."""
