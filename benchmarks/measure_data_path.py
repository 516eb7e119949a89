"""Decoded images, changed in whole batches, against torchvision's folder of JPEGs read by a DataLoader.

Both make the same batches, from the second epoch on: the first decodes on our side and starts the
workers on the other. Ours are cut from the squares that the images were decoded to, theirs from
the whole images, which they decode in every epoch. All cores serve each side: ours as threads of the
arithmetic, theirs as workers and, where a network trains beside them, as its threads too. On a GPU
batches count once they are there.

An epoch of training meets PyTorch's loop twice: with tensors as PyTorch lays them out, and with channels
last, as our engine has them, which leaves the data and the loop as the difference.
"""

import itertools
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as functional
from PIL import Image
from sklearn.datasets import load_sample_images
from torch import nn
from torch.utils.data import DataLoader
from torchvision import models, transforms
from torchvision.datasets import ImageFolder
from training import CORES, augmentation, preprocessing, samples, wait

from pipeline.backbones.backbone import Description, build_backbone
from pipeline.config.training import Sgd
from pipeline.engine.device import prepare_device
from pipeline.engine.optimisation import Optimiser
from pipeline.engine.streams import ImageStream, target_stream
from pipeline.finetuning.learner import FineTuning
from pipeline.images.cache import open_images, write_images
from pipeline.images.threads import map_in_order
from pipeline.objectives.cross_entropy import CrossEntropy
from pipeline.provenance import Provenance
from pipeline.tables import write_table

ROUNDS = 5
BATCH, CLASSES = 64, 10
# As many batches for each worker, so that none waits for another.
IMAGES = 4 * BATCH * CORES
WIDTH, HEIGHT = 500, 375
# Sides of the crops, and of the decoded images that they come from.
SIDES = {96: 110, 224: 256}
EPOCH_CROP = 96
FASTER, FASTER_EPOCH = 3.0, 1.3
PEER = f"PyTorch: ImageFolder, DataLoader with {CORES} workers"
LAYOUTS = {torch.contiguous_format: "its own layout", torch.channels_last: "channels last"}
NOBODY = Provenance("benchmark", {}, "none", {}, {})

# An epoch: all of its work, up to a device that has done it.
Epoch = Callable[[], None]


def measure(folder: Path, rounds: int | None) -> list[dict[str, Any]]:
    """A row for the images alone at each crop, and one for an epoch of ResNet-18."""
    device, rounds = prepare_device(CORES), rounds or ROUNDS
    photographs = _write_photographs(folder / "photographs")
    size = statistics.mean(path.stat().st_size for path in photographs) / 1000
    _write_manifest(folder / "manifest.parquet", photographs)
    rows = []
    for crop, side in SIDES.items():
        stream, seconds = _our_stream(folder, photographs, crop, side, device)
        loader = _their_loader(folder / "photographs", crop, device)
        images = f"{IMAGES} JPEGs of {WIDTH} x {HEIGHT}, {size:.0f} kB"
        case = f"{images}; crop {crop}; decoded once in {seconds:.1f} s"
        passes = _our_pass(stream, device), _their_pass(loader, device)
        rows.append(_row("data path", case, PEER, *passes, FASTER, rounds))
        if crop == EPOCH_CROP:
            for layout, name in LAYOUTS.items():
                case = f"ResNet-18, {crop} pixels, batch {BATCH}, {images}"
                epochs = _our_epoch(stream, device), _their_epoch(loader, device, layout)
                rows.append(_row("epoch of training", case, f"{PEER}, {name}", *epochs, FASTER_EPOCH, rounds))
    return rows


def _row(
    benchmark: str, case: str, peer: str, ours: Epoch, theirs: Epoch, limit: float, rounds: int
) -> dict[str, Any]:
    """Images a second of both, in turn, after an epoch of each."""
    pairs = [(_speed(_as_ours, ours), _speed(_as_theirs, theirs)) for _ in range(rounds + 1)][1:]
    ratio = statistics.median(own / other for own, other in pairs)
    return {
        "benchmark": benchmark,
        "case": f"{case}; ours with {CORES} threads",
        "measured": statistics.median(own for own, _ in pairs),
        "unit": "images/s",
        "peer": peer,
        "peer_value": statistics.median(other for _, other in pairs),
        "compared": ratio,
        "limit": f"at least {limit:g} of the speed",
        "kept": ratio >= limit,
        "runs": rounds,
    }


def _speed(prepare: Callable[[], object], epoch: Epoch) -> float:
    prepare()
    started = time.perf_counter()
    epoch()
    return IMAGES / (time.perf_counter() - started)


def _as_ours() -> None:
    prepare_device(CORES)


def _as_theirs() -> None:
    """PyTorch as it starts: its deterministic algorithms are our choice, and not all are as fast."""
    torch.set_deterministic_debug_mode("default")


def _our_stream(
    folder: Path, photographs: list[Path], crop: int, side: int, device: torch.device
) -> tuple[ImageStream, float]:
    """Batches from decoded images, and the seconds that these took."""
    decoded = folder / f"images_{side}.npy"
    started = time.perf_counter()
    write_images(folder / "manifest.parquet", decoded, side, CORES)
    seconds = time.perf_counter() - started
    labels = np.arange(len(photographs)) % CLASSES
    stream = target_stream(
        samples(labels, CLASSES),
        np.arange(len(photographs)),
        open_images(decoded, len(photographs)),
        {"batch_size": BATCH, "augmentation": augmentation()},
        preprocessing(crop, side),
        0,
        device,
    )
    return stream, seconds


def _their_loader(folder: Path, crop: int, device: torch.device) -> DataLoader[Any]:
    """As in PyTorch's and torchvision's examples."""
    normalisation = preprocessing(crop, crop)
    change = transforms.Compose(
        [
            transforms.RandomResizedCrop(crop),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize(normalisation["mean"], normalisation["std"]),
        ]
    )
    return DataLoader(
        ImageFolder(folder, change),
        batch_size=BATCH,
        shuffle=True,
        num_workers=CORES,
        pin_memory=device.type == "cuda",
        persistent_workers=True,
    )


def _our_pass(stream: ImageStream, device: torch.device) -> Epoch:
    numbers = itertools.count()

    def epoch() -> None:
        for _ in stream.epoch(next(numbers)):
            pass
        wait(device)

    return epoch


def _their_pass(loader: DataLoader[Any], device: torch.device) -> Epoch:
    def epoch() -> None:
        for images, labels in loader:
            images.to(device, non_blocking=True)
            labels.to(device, non_blocking=True)
        wait(device)

    return epoch


def _our_epoch(stream: ImageStream, device: torch.device) -> Epoch:
    """An epoch of our learner and optimiser, step by step as `pipeline.engine.train` makes them."""
    names = [f"class {label}" for label in range(CLASSES)]
    preprocessed = preprocessing(stream.augmentations[0].crop, stream.images.shape[1])
    description = Description({"name": "torchvision", "model": "resnet18"}, preprocessed, class_names=names)
    backbone = build_backbone(description, 0).to(device)
    learner = FineTuning(backbone, CrossEntropy(0.0))
    optimiser = Optimiser(Sgd(name="sgd").model_dump(), backbone.encoder, learner.heads)
    numbers = itertools.count()

    def epoch() -> None:
        for batch in stream.epoch(next(numbers)):
            loss, _ = learner.loss({"target": batch})
            if not torch.isfinite(loss):
                raise FloatingPointError(f"the loss is {loss.item()}")
            loss.backward()
            optimiser.step(1.0)
        wait(device)

    return epoch


def _their_epoch(loader: DataLoader[Any], device: torch.device, layout: torch.memory_format) -> Epoch:
    """The same network with the same settings of PyTorch's SGD."""
    network: nn.Module = models.resnet18(num_classes=CLASSES)
    network = network.to(device, memory_format=layout)
    settings = Sgd(name="sgd")
    optimiser = torch.optim.SGD(
        network.parameters(),
        lr=settings.learning_rate,
        momentum=settings.momentum,
        nesterov=settings.nesterov,
        weight_decay=settings.weight_decay,
    )

    def epoch() -> None:
        for images, labels in loader:
            images = images.to(device, non_blocking=True, memory_format=layout)
            loss = functional.cross_entropy(network(images), labels.to(device, non_blocking=True))
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        wait(device)

    return epoch


def _write_photographs(folder: Path) -> list[Path]:
    """JPEGs of windows of scikit-learn's two photographs, in folders of classes; in the order of these."""
    photographs = [Image.fromarray(pixels) for pixels in load_sample_images().images]
    for label in range(CLASSES):
        (folder / str(label)).mkdir(parents=True)

    def write(number: int) -> Path:
        random = np.random.default_rng(number)
        photograph = photographs[random.integers(len(photographs))]
        width = int(random.integers(WIDTH, photograph.height * WIDTH // HEIGHT + 1))
        height = width * HEIGHT // WIDTH
        left = int(random.integers(photograph.width - width + 1))
        top = int(random.integers(photograph.height - height + 1))
        window = photograph.resize((WIDTH, HEIGHT), box=(left, top, left + width, top + height))
        path = folder / str(number % CLASSES) / f"{number:06}.jpg"
        window.save(path, quality=95)
        return path

    return list(map_in_order(write, range(IMAGES), CORES))


def _write_manifest(path: Path, photographs: list[Path]) -> None:
    labels = [int(photograph.parent.name) for photograph in photographs]
    columns = {
        "sample_id": [f"{number:06}" for number in range(len(photographs))],
        "image": [{"bytes": None, "path": str(photograph)} for photograph in photographs],
        "split": ["train"] * len(photographs),
        "label": labels,
        "class_name": [f"class {label}" for label in labels],
        "width": [WIDTH] * len(photographs),
        "height": [HEIGHT] * len(photographs),
    }
    write_table("manifest", path, columns, NOBODY)
