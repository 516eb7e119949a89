"""How many jobs a config means, and how many hours of a GPU: a reader of configs, no step of the workflow."""
