"""The target of a run: its images, and what a model says of them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline.backbones.backbone import Backbone
from pipeline.engine.augmentation import Normalisation
from pipeline.engine.inference import forward_all
from pipeline.errors import PipelineError
from pipeline.images.cache import open_images
from pipeline.tables import Samples, read_samples


@dataclass(frozen=True)
class Target:
    """The dataset that is fine-tuned on.

    Attributes:
        samples: From its manifest.
        pixels: Its decoded images, uint8 (n, size, size, 3).
        normalise: From pixels to the backbone's input.
        device: Where to compute.
    """

    samples: Samples
    pixels: np.ndarray
    normalise: Normalisation
    device: torch.device

    def rows(self, splits: Sequence[str]) -> np.ndarray:
        """Rows of these splits, to predict.

        Raises:
            PipelineError: If the dataset has no such part, and nothing could be said of the run.
        """
        rows = self.samples.rows(*splits)
        if not len(rows):
            raise PipelineError(
                f"{self.samples.manifest}: no {' or '.join(splits)} image to evaluate the run on; data "
                "without such parts is cut where its entry in datasets says so, as in "
                "split: {validation: 0.1, test: 0.2}"
            )
        return rows

    def outputs(self, model: Backbone, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Logits and penultimate features of the given rows, float32 (n, classes) and (n, width)."""
        head = model.head
        assert head is not None

        def forward(images: torch.Tensor) -> tuple[torch.Tensor, ...]:
            features = model(images)
            return head(features), features

        logits, features = forward_all(model, forward, self.pixels, rows, self.normalise, self.device)
        return logits, features

    def batches(self, rows: np.ndarray, size: int = 64) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """The given rows as the network takes them, not augmented, and their labels, int64."""
        for start in range(0, len(rows), size):
            part = rows[start : start + size]
            pixels = torch.from_numpy(self.pixels[part]).to(self.device)
            yield self.normalise(pixels), torch.from_numpy(self.samples.labels[part]).to(self.device)


def open_target(
    manifest: Path, images: Path, preprocessing: Mapping[str, Any], device: torch.device
) -> Target:
    """The target by its manifest and decoded images."""
    samples = read_samples(manifest)
    pixels = open_images(images, len(samples.ids))
    return Target(samples, pixels, Normalisation(preprocessing), device)
