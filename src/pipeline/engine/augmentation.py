"""Random changes of training images, on whole batches, on the device they are on."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as functional

# Numbers each image draws: crop y, crop x, area, ratio, flip, three jitters, grey, blur, sigma.
DRAWS = 11
# Values of stored images that change together on a CPU: what lies between two operations then stays in
# its cache, and memory is not asked of the system anew for each of them.
TOGETHER = 2**20


class Augmentation:
    """Crop, flip, colour jitter, grey and blur, then normalisation.

    Attributes:
        draws: How many numbers each image takes.

    Args:
        settings: The ``augmentation`` section of a recipe.
        preprocessing: ``crop``, ``mean`` and ``std`` of the backbone.
    """

    draws = DRAWS

    def __init__(self, settings: Mapping[str, Any], preprocessing: Mapping[str, Any]):
        self.settings = settings
        self.crop = int(preprocessing["crop"])
        self.normalise = Normalisation(preprocessing)

    def __call__(self, images: torch.Tensor, draws: np.ndarray, cut: bool = False) -> torch.Tensor:
        """Change each image by its own numbers.

        Args:
            images: uint8 (n, height, width, 3).
            draws: float32 (n, `draws`) in [0, 1).
            cut: Whether they are random resized crops already, (n, crop, crop, 3), by `boxes`.

        Returns:
            float32 (n, 3, crop, crop), normalised, channels last in memory.
        """
        numbers, together = torch.from_numpy(draws).to(images.device), _together(images)
        parts = zip(images.split(together), numbers.split(together), strict=True)
        changed = [self.normalise.pixels(self.change(*part, cut)) for part in parts]
        return torch.cat(changed) if len(changed) > 1 else changed[0]

    def boxes(self, sides: np.ndarray, draws: np.ndarray) -> np.ndarray:
        """The random resized crop of images of any size: a share of the area, of a ratio from 3:4 to 4:3.

        As torchvision's RandomResizedCrop, but for boxes that reach beyond the image: those are cut off at
        its border, not drawn again.

        Args:
            sides: Height and width in pixels, int64 (n, 2).
            draws: float32 (n, `draws`) in [0, 1); the same numbers decide as for stored squares.

        Returns:
            Top, left, height and width, int64 (n, 4).
        """
        low, high = self.settings["resized_crop"]
        numbers = draws.astype(np.float64)
        area = (low + (high - low) * numbers[:, 2]) * sides.prod(1)
        ratio = np.exp((2 * numbers[:, 3] - 1) * np.log(4 / 3))
        extent = np.stack([np.sqrt(area / ratio), np.sqrt(area * ratio)], 1).round().astype(np.int64)
        extent = np.clip(extent, 1, sides)
        corner = (numbers[:, :2] * (sides - extent + 1)).astype(np.int64)
        return np.concatenate([corner, extent], 1)

    def change(self, images: torch.Tensor, numbers: torch.Tensor, cut: bool = False) -> torch.Tensor:
        """As a call, before the normalisation: float32 (n, 3, crop, crop) in 0..1."""
        if cut:
            pixels = images.permute(0, 3, 1, 2).float().div_(255)
            pixels = torch.where(self._flipped(numbers)[:, None, None, None], pixels.flip(3), pixels)
        elif self.settings["resized_crop"] is not None:
            pixels = self._resized_crop(images, numbers)
        else:
            pixels = self._padded_crop(images, numbers)
        return self._colours(pixels, numbers)

    def _padded_crop(self, images: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
        """Cut a square out of the padded image by indexing: exact, and flipped on the way."""
        count, height, width, _ = images.shape
        padding, fill = self.settings["padding"], self.settings["fill"]
        if padding:
            images = functional.pad(images, (0, 0, padding, padding, padding, padding), value=fill)
        rows = _window(numbers[:, 0], height + 2 * padding, self.crop)
        columns = _window(numbers[:, 1], width + 2 * padding, self.crop)
        columns = torch.where(self._flipped(numbers)[:, None], columns.flip(1), columns)
        picked = images[torch.arange(count)[:, None, None], rows[:, :, None], columns[:, None, :]]
        return picked.permute(0, 3, 1, 2).float().div_(255)

    def _resized_crop(self, images: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
        """A random area of random shape, resized; as torchvision's RandomResizedCrop."""
        low, high = self.settings["resized_crop"]
        area = low + (high - low) * numbers[:, 2]
        log_ratio = (2 * numbers[:, 3] - 1) * float(np.log(4 / 3))
        half_width = torch.clamp(torch.sqrt(area * torch.exp(log_ratio)), max=1.0)
        half_height = torch.clamp(torch.sqrt(area * torch.exp(-log_ratio)), max=1.0)
        mirror = 1 - 2 * self._flipped(numbers).float()
        # As affine_grid gives it, but without its product of matrices: nothing is turned or sheared here.
        steps = (2 * torch.arange(self.crop, device=images.device) + 1) / self.crop - 1
        grid = torch.empty(len(images), self.crop, self.crop, 2, device=images.device)
        grid[..., 0] = _along(steps, half_width * mirror, half_width, numbers[:, 1])[:, None, :]
        grid[..., 1] = _along(steps, half_height, half_height, numbers[:, 0])[:, :, None]
        pixels = images.permute(0, 3, 1, 2).float().div_(255)
        return functional.grid_sample(pixels, grid, padding_mode="border", align_corners=False)

    def _flipped(self, numbers: torch.Tensor) -> torch.Tensor:
        return (numbers[:, 4] < 0.5) & bool(self.settings["flip"])

    def _colours(self, pixels: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
        strength = self.settings["colour_jitter"]
        if strength:
            factors = (1 + strength * (2 * numbers[:, 5:8] - 1))[:, :, None, None, None]
            pixels = (pixels * factors[:, 0]).clamp_(0, 1)
            mean = _grey(pixels).mean(dim=(2, 3), keepdim=True)
            pixels = (mean + (pixels - mean) * factors[:, 1]).clamp_(0, 1)
            grey = _grey(pixels)
            pixels = (grey + (pixels - grey) * factors[:, 2]).clamp_(0, 1)
        if self.settings["grey"]:
            chosen = (numbers[:, 8] < self.settings["grey"])[:, None, None, None]
            pixels = torch.where(chosen, _grey(pixels), pixels)
        if self.settings["blur"]:
            chosen = (numbers[:, 9] < self.settings["blur"])[:, None, None, None]
            pixels = torch.where(chosen, _blur(pixels, 0.1 + 1.9 * numbers[:, 10]), pixels)
        return pixels


class Normalisation:
    """Centre crop and normalisation, for evaluation and features."""

    def __init__(self, preprocessing: Mapping[str, Any]):
        self.crop = int(preprocessing["crop"])
        self.mean = torch.tensor(preprocessing["mean"])[None, :, None, None]
        self.std = torch.tensor(preprocessing["std"])[None, :, None, None]

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """uint8 (n, height, width, 3) to float32 (n, 3, crop, crop), channels last in memory."""
        # Rounded as torchvision's CenterCrop does, so that published weights see what they know.
        top, left = (round((side - self.crop) / 2) for side in images.shape[1:3])
        centre = images[:, top : top + self.crop, left : left + self.crop]
        return self.pixels(centre.permute(0, 3, 1, 2).float().div_(255))

    def pixels(self, pixels: torch.Tensor) -> torch.Tensor:
        """Normalise float32 (n, 3, height, width) in 0..1, in place."""
        pixels.sub_(self.mean.to(pixels.device)).div_(self.std.to(pixels.device))
        return pixels.contiguous(memory_format=torch.channels_last)


def _along(steps: torch.Tensor, scale: torch.Tensor, half: torch.Tensor, place: torch.Tensor) -> torch.Tensor:
    """Where one side of a crop reads, from -1 to 1 of the image's, (n, crop).

    Args:
        steps: Middles of the crop's pixels from -1 to 1, (crop,).
        scale: What they are multiplied by, (n,): `half`, or minus `half` to mirror.
        half: Length of the crop as a share of the image's, (n,).
        place: Where it lies, 0 at one end and 1 at the other, (n,).
    """
    return scale[:, None] * steps + ((2 * place - 1) * (1 - half))[:, None]


def _together(images: torch.Tensor) -> int:
    """How many images change together: on a CPU a few, but one for each thread; on a GPU all."""
    if images.device.type != "cpu":
        return max(1, len(images))
    return max(torch.get_num_threads(), TOGETHER // images.shape[1:].numel())


def _window(numbers: torch.Tensor, size: int, crop: int) -> torch.Tensor:
    """Row (or column) numbers of a random window for each image, int64 (n, crop)."""
    start = (numbers * (size - crop + 1)).long()
    return start[:, None] + torch.arange(crop, device=numbers.device)[None, :]


def _grey(pixels: torch.Tensor) -> torch.Tensor:
    weights = torch.tensor([0.299, 0.587, 0.114], device=pixels.device)[None, :, None, None]
    return (pixels * weights).sum(1, keepdim=True)


def _blur(pixels: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
    """A Gaussian of each image's own sigma (pixels), separable, nine taps."""
    count, channels, height, width = pixels.shape
    offsets = torch.arange(-4, 5, device=pixels.device, dtype=pixels.dtype)
    kernel = torch.exp(-0.5 * (offsets[None, :] / sigma[:, None]) ** 2)
    kernel = (kernel / kernel.sum(1, keepdim=True)).repeat_interleave(channels, 0)
    planes = pixels.reshape(1, count * channels, height, width)
    groups = count * channels
    padded = functional.pad(planes, (4, 4, 4, 4), mode="replicate")
    rows = functional.conv2d(padded, kernel[:, None, :, None], groups=groups)
    blurred = functional.conv2d(rows, kernel[:, None, None, :], groups=groups)
    return blurred.reshape(count, channels, height, width)
