"""How selected source images take part in fine-tuning: one module each, loaded by its name.

Each has

- ``LABELLED``: whether the source images need labels;
- ``VIEWS``: how many views of each source image pass the network;
- ``augmentations(settings, augmentation, preprocessing)``: how each of these views is changed, from
  the recipe's ``augmentation``;
- ``build(settings, width, classes, pretraining_head) -> Reuse``.
"""

from pipeline.reuse.outputs import Reuse, SourceOutputs

__all__ = ["Reuse", "SourceOutputs"]
