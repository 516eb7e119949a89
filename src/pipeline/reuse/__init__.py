"""How selected source images take part in fine-tuning: one module each, loaded by its name.

Each has

- ``LABELLED``: whether the source images need labels;
- ``augmentations(settings, augmentation, preprocessing)``: how each view of a source image is
  changed, from the recipe's ``augmentation``;
- ``build(settings, width, classes, pretraining_head) -> Reuse``.
"""

from pipeline.reuse.outputs import Reuse, SourceOutputs

__all__ = ["Reuse", "SourceOutputs"]
