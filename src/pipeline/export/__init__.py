"""A run's model to take away: weights, ONNX, and a card that says what they are."""
