"""Training in plain PyTorch: data streams, optimisers, schedules, one loop, checkpoints."""
