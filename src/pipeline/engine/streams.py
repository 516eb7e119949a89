"""Batches of training images out of a memory-mapped cache."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch

from pipeline.engine.augmentation import Augmentation
from pipeline.engine.distributed import own_part
from pipeline.engine.randomness import derive, permutation, uniforms
from pipeline.images.originals import Originals
from pipeline.tables import Samples


@dataclass
class Batch:
    """Images as the network takes them.

    Attributes:
        images: float32 (n, 3, crop, crop), normalised.
        labels: int64 (n,); -1 where there is none.
        samples: Row of each image in its manifest, int64 (n,).
        joint_size: Images of the batch in all processes that train together.
        views: Further augmentations of the same images, each like `images`.
        draws: Random numbers of each image in [0, 1), for what is done with it further on, float32
            (n, d).
    """

    images: torch.Tensor
    labels: torch.Tensor
    samples: np.ndarray
    joint_size: int
    views: tuple[torch.Tensor, ...] = ()
    draws: torch.Tensor = field(default_factory=lambda: torch.empty(0, 0))


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
        draws: How many further numbers each image has in each epoch.
        originals: The images at their own sizes, from which random resized crops are cut; by so many
            threads as the arithmetic has.
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
        draws: int = 0,
        originals: Originals | None = None,
    ):
        self.images, self.labels, self.samples = images, labels, samples
        self.sample_ids = sample_ids
        self.sampler, self.augmentations = sampler, augmentations
        self.seed, self.device, self.draws = seed, device, draws
        self.originals = originals

    def epoch(self, number: int) -> Iterator[Batch]:
        """The batches of one epoch; the same for the same number."""
        for positions in self.sampler.epoch(number):
            size = len(positions)
            positions = own_part(positions)
            rows = self.samples[positions]
            first, *further = self._views(rows, number)
            labels = torch.from_numpy(self.labels[positions]).to(self.device)
            draws = torch.from_numpy(uniforms(rows, self.draws, self.seed, "draws", number)).to(self.device)
            yield Batch(first, labels, rows, size, tuple(further), draws)

    def _views(self, rows: np.ndarray, epoch: int) -> Iterator[torch.Tensor]:
        """The images of these rows in each of the augmentations."""
        squares: torch.Tensor | None = None
        for view, change in enumerate(self.augmentations):
            numbers = uniforms(rows, change.draws, self.seed, "augmentation", epoch, view)
            if self.originals is not None and change.settings["resized_crop"] is not None:
                boxes = change.boxes(self.originals.sides(rows), numbers)
                crops = self.originals.crop(rows, boxes, change.crop, torch.get_num_threads())
                yield change(torch.from_numpy(crops).to(self.device), numbers, cut=True)
                continue
            if squares is None:
                squares = torch.from_numpy(self.images[rows]).to(self.device)
            yield change(squares, numbers)


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
    views: int = 1,
    draws: int = 0,
    originals: Originals | None = None,
) -> ImageStream:
    """Shuffled batches of these rows of a dataset, in `views` augmentations as `training` says."""
    return ImageStream(
        images=images,
        labels=samples.labels[rows],
        samples=rows,
        sample_ids=samples.ids,
        sampler=Shuffled(len(rows), training["batch_size"], seed),
        augmentations=[Augmentation(training["augmentation"], preprocessing)] * views,
        seed=seed,
        device=device,
        draws=draws,
        originals=originals,
    )
