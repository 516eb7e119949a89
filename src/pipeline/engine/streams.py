"""Batches of training images out of a memory-mapped cache."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch

from pipeline.engine.augmentation import Augmentation
from pipeline.engine.randomness import derive, permutation, uniforms
from pipeline.tables import Samples


@dataclass
class Batch:
    """Images as the network takes them.

    Attributes:
        images: float32 (n, 3, crop, crop), normalised.
        labels: int64 (n,); -1 where there is none.
        samples: Row of each image in its manifest, int64 (n,).
        views: Further augmentations of the same images, each like `images`.
    """

    images: torch.Tensor
    labels: torch.Tensor
    samples: np.ndarray
    views: tuple[torch.Tensor, ...] = ()


class Sampler(Protocol):
    """Which images each batch of an epoch holds."""

    batches: int

    def epoch(self, number: int) -> Iterator[np.ndarray]:
        """Positions in the stream's samples, a batch at a time; the same for the same number."""
        ...


class Shuffled:
    """Every sample once an epoch, in an order of the epoch's own."""

    def __init__(self, count: int, batch_size: int, seed: int):
        self.count, self.batch_size, self.seed = count, batch_size, seed
        # Batch normalisation cannot train on a single image, so a last batch of one is left out.
        self.batches = max(1, count // batch_size + (count % batch_size > 1))

    def epoch(self, number: int) -> Iterator[np.ndarray]:
        """Positions of each batch, int64."""
        order = permutation(self.count, self.seed, "order", number)
        for batch in range(self.batches):
            yield order[batch * self.batch_size : (batch + 1) * self.batch_size]


class ClassBalanced:
    """Classes drawn uniformly, then an image of each: the reused data of the UOT paper, section 4.3."""

    def __init__(self, labels: np.ndarray, sizes: Sequence[int], seed: int):
        self.members = [np.flatnonzero(labels == label) for label in np.unique(labels)]
        self.sizes, self.seed = list(sizes), seed
        self.batches = len(self.sizes)

    def epoch(self, number: int) -> Iterator[np.ndarray]:
        """Positions of each batch, int64."""
        for batch, size in enumerate(self.sizes):
            generator = np.random.default_rng(derive(self.seed, "balanced", number, batch))
            classes = _spread(generator, len(self.members), size)
            yield np.array([generator.choice(self.members[label]) for label in classes])


class ImageStream:
    """Batches from decoded images.

    Args:
        images: uint8 (n, size, size, 3), usually memory-mapped.
        labels: int64 (m,), the label of each sample of this stream.
        samples: int64 (m,), its row in `images`.
        sample_ids: Name of each row of `images`, for messages.
        sampler: Which samples make each batch.
        augmentations: How each view of an image is changed, the first view first; the numbers of a
            view depend on (seed, epoch, sample, view).
        seed: Seed of the augmentations.
        device: Where batches go.
    """

    def __init__(
        self,
        images: np.ndarray,
        labels: np.ndarray,
        samples: np.ndarray,
        sample_ids: Sequence[str],
        sampler: Sampler,
        augmentations: Sequence[Augmentation],
        seed: int,
        device: torch.device,
    ):
        self.images, self.labels, self.samples = images, labels, samples
        self.sample_ids = sample_ids
        self.sampler, self.augmentations = sampler, augmentations
        self.seed, self.device = seed, device

    def epoch(self, number: int) -> Iterator[Batch]:
        """The batches of one epoch; the same for the same number."""
        for positions in self.sampler.epoch(number):
            rows = self.samples[positions]
            pixels = torch.from_numpy(self.images[rows]).to(self.device)
            first, *further = (
                change(pixels, uniforms(rows, change.draws, self.seed, "augmentation", number, view))
                for view, change in enumerate(self.augmentations)
            )
            labels = torch.from_numpy(self.labels[positions]).to(self.device)
            yield Batch(first, labels, rows, tuple(further))


def _spread(generator: np.random.Generator, classes: int, size: int) -> np.ndarray:
    """`size` class numbers in which no class stands more than once oftener than another."""
    rounds = [generator.permutation(classes) for _ in range(-(-size // classes))]
    return np.concatenate(rounds)[:size]


def target_stream(
    samples: Samples,
    rows: np.ndarray,
    images: np.ndarray,
    training: Mapping[str, Any],
    preprocessing: Mapping[str, Any],
    seed: int,
    device: torch.device,
) -> ImageStream:
    """Shuffled batches of these rows of a dataset, augmented as `training` says."""
    return ImageStream(
        images=images,
        labels=samples.labels[rows],
        samples=rows,
        sample_ids=samples.ids,
        sampler=Shuffled(len(rows), training["batch_size"], seed),
        augmentations=[Augmentation(training["augmentation"], preprocessing)],
        seed=seed,
        device=device,
    )
