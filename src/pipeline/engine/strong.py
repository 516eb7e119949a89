"""RandAugment (Cubuk et al. 2020) on whole batches, with numbers that are handed in."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torchvision.transforms.v2.functional as vision

from pipeline.engine.augmentation import DRAWS, Augmentation

# Images uint8 (n, 3, height, width), the strength with its sign, and the fill of what comes in
# from outside the image.
Operation = Callable[[torch.Tensor, float, int], torch.Tensor]


class StrongAugmentation(Augmentation):
    """The weak augmentation, then random operations of one magnitude (RandAugment, Algorithm 1).

    Operations and ranges are those of ``torchvision.transforms.v2.RandAugment``. That class draws
    once for a whole batch and from the global generator; here every image has its own numbers.

    Args:
        settings: The ``augmentation`` section of a recipe; ``fill`` also fills what is moved in.
        preprocessing: ``crop``, ``mean`` and ``std`` of the backbone.
        operations: How many follow each other (N of the paper).
        magnitude: Their strength, from 0 to 30 (M of the paper).
    """

    def __init__(
        self,
        settings: Mapping[str, Any],
        preprocessing: Mapping[str, Any],
        operations: int,
        magnitude: int,
    ):
        super().__init__(settings, preprocessing)
        self.operations, self.magnitude = operations, magnitude
        self.draws = DRAWS + 2 * operations

    def change(self, images: torch.Tensor, numbers: torch.Tensor, cut: bool = False) -> torch.Tensor:
        """uint8 (n, height, width, 3) and (n, draws) to float32 (n, 3, crop, crop) in 0..1."""
        weak = super().change(images, numbers[:, :DRAWS], cut)
        pixels = weak.mul(255).round_().to(torch.uint8)
        for first in range(DRAWS, self.draws, 2):
            pixels = rand_augment(
                pixels, numbers[:, first : first + 2], self.magnitude, self.settings["fill"]
            )
        return pixels.float().div_(255)


def rand_augment(images: torch.Tensor, numbers: torch.Tensor, magnitude: int, fill: int) -> torch.Tensor:
    """One operation on each image, all operations as likely.

    Args:
        images: uint8 (n, 3, height, width).
        numbers: (n, 2) in [0, 1): which operation, and (below a half) whether its sign is negative.
        magnitude: From 0 to 30.
        fill: Grey level of what is moved in, 0 to 255.

    Returns:
        uint8 (n, 3, height, width), new.
    """
    changed = images.clone()
    chosen = (numbers[:, 0] * len(OPERATIONS)).long()
    negative = numbers[:, 1] < 0.5
    # Images that share operation and sign go through it together.
    for number, (operation, strongest) in enumerate(OPERATIONS.values()):
        for sign, side in ((-1, negative), (1, ~negative)):
            group = (chosen == number) & side
            if bool(group.any()):
                changed[group] = operation(images[group], sign * strongest * magnitude / 30, fill)
    return changed


def _sheared(images: torch.Tensor, along_x: float, along_y: float, fill: int) -> torch.Tensor:
    angles = [math.degrees(math.atan(along_x)), math.degrees(math.atan(along_y))]
    # About the corner, as RandAugment's own shear.
    return vision.affine(images, 0.0, [0, 0], 1.0, angles, fill=fill, center=[0, 0])


def _shifted(images: torch.Tensor, x: float, y: float, fill: int) -> torch.Tensor:
    pixels = [int(x * images.shape[-1]), int(y * images.shape[-2])]
    return vision.affine(images, 0.0, pixels, 1.0, [0.0, 0.0], fill=fill)


# Each with its strength at magnitude 30. Where a sign has no meaning, both do the same.
OPERATIONS: dict[str, tuple[Operation, float]] = {
    "identity": (lambda images, _strength, _fill: images, 0.0),
    "shear_x": (lambda images, strength, fill: _sheared(images, strength, 0, fill), 0.3),
    "shear_y": (lambda images, strength, fill: _sheared(images, 0, strength, fill), 0.3),
    "translate_x": (lambda images, strength, fill: _shifted(images, strength, 0, fill), 150 / 331),
    "translate_y": (lambda images, strength, fill: _shifted(images, 0, strength, fill), 150 / 331),
    "rotate": (lambda images, strength, fill: vision.rotate(images, strength, fill=fill), 30.0),
    "brightness": (lambda images, strength, _fill: vision.adjust_brightness(images, 1 + strength), 0.9),
    "colour": (lambda images, strength, _fill: vision.adjust_saturation(images, 1 + strength), 0.9),
    "contrast": (lambda images, strength, _fill: vision.adjust_contrast(images, 1 + strength), 0.9),
    "sharpness": (lambda images, strength, _fill: vision.adjust_sharpness(images, 1 + strength), 0.9),
    "posterize": (lambda images, strength, _fill: vision.posterize(images, round(8 - abs(strength))), 4.0),
    "solarize": (lambda images, strength, _fill: vision.solarize(images, 255 * (1 - abs(strength))), 1.0),
    "autocontrast": (lambda images, _strength, _fill: vision.autocontrast(images), 0.0),
    "equalize": (lambda images, _strength, _fill: vision.equalize(images), 0.0),
}
