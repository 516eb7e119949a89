"""Formats of published checkpoints, one module each, loaded by the name that the settings give.

Each has ``NESTED``, the names below which a file of the format has its tensors, and
``convert(tensors, architecture, source) -> dict[str, torch.Tensor]``: the tensors by the names that
they have in the network that ``architecture`` describes. What the format has beside the encoder (heads
of pre-training, a decoder) is left out by name; any other key that it does not know is an error.
"""
