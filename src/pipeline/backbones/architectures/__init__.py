"""Networks, one module each, loaded by the name that the settings give.

Each has ``build(settings) -> tuple[nn.Module, int, str | None]``: a module from float32
(n, 3, height, width) to features (n, d) with random weights, the width d, and the prefix of its
classification layer's parameters in published checkpoints (None where it has none).
"""
