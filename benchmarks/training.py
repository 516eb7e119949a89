"""Training steps of any objective: the pipeline's own learner, streams and optimiser, as a step has them."""

import importlib
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import TypeAdapter

from pipeline.backbones.backbone import Backbone, Description, build_backbone
from pipeline.config.initialisation import Coin
from pipeline.config.objectives import AnyObjective
from pipeline.config.training import Augmentation, Sgd
from pipeline.engine.device import prepare_device
from pipeline.engine.learner import Learner
from pipeline.engine.optimisation import Optimiser
from pipeline.engine.randomness import seeded
from pipeline.engine.streams import Batch, ImageStream, target_stream
from pipeline.finetuning.learner import FineTuning
from pipeline.images.cache import open_images
from pipeline.objectives import Objective, Start
from pipeline.objectives.delta import Delta
from pipeline.objectives.layers import last_of_stages
from pipeline.tables import Samples

CLASSES, SOURCE_CLASSES = 100, 1000
# The stage before fine-tuning, measured among the objectives.
STAGE = "coin"
# Cores that this process may use: threads of the arithmetic, and workers of a data loader.
CORES = len(os.sched_getaffinity(0))


@dataclass(frozen=True)
class Size:
    """What a step is measured on.

    Attributes:
        crop: Side of the images that the network takes.
        stored: Side of the decoded ones.
        batch: Images in a batch.
        images: How many there are, a multiple of `batch`.
        steps: How many steps one figure is the mean of.
    """

    crop: int
    stored: int
    batch: int
    images: int
    steps: int

    def __str__(self) -> str:
        return f"{self.crop} pixels, batch {self.batch}"


ON_CPU = Size(crop=96, stored=110, batch=64, images=512, steps=1)
ON_GPU = Size(crop=224, stored=256, batch=256, images=1024, steps=5)


def prepare() -> tuple[torch.device, Size]:
    """The device as training has it, with all cores, and what to measure there."""
    device = prepare_device(CORES)
    return device, ON_GPU if device.type == "cuda" else ON_CPU


class Trained:
    """ResNet-50 under one objective, or in COIN's stage, step by step.

    Args:
        name: Of an objective, or ``coin``.
        pretrained: What fine-tuning starts from.
        stored: Decoded images, a .npy file.
        size: As they are.
        device: Where to compute.
    """

    def __init__(self, name: str, pretrained: Backbone, stored: Path, size: Size, device: torch.device):
        self.device = device
        with seeded(0, "learner"):
            self.learner = (_stage if name == STAGE else _fine_tuning)(name, pretrained).to(device)
        backbone: Any = self.learner.backbone
        # A rate of zero: each step does all of the work, and on the same weights as the one before.
        settings = Sgd(name="sgd").model_dump() | {"learning_rate": 0.0}
        self.optimiser = Optimiser(settings, backbone.encoder, self.learner.heads, self.learner.pretrained)
        objective: Any = getattr(self.learner, "objective", Objective)
        self.batches = _batches(_stream(stored, size, pretrained, objective, device))

    def step(self) -> None:
        """One step of the optimiser, the batch's images included, as `pipeline.engine.train` makes it."""
        loss, _ = self.learner.loss({"target": next(self.batches)})
        if not torch.isfinite(loss):
            raise FloatingPointError(f"the loss is {loss.item()}")
        loss.backward()
        self.optimiser.step(1.0)
        self.learner.after_step()

    def seconds(self, steps: int) -> float:
        """Seconds of a step, the mean of so many."""
        started = time.perf_counter()
        for _ in range(steps):
            self.step()
        wait(self.device)
        return (time.perf_counter() - started) / steps


def wait(device: torch.device) -> None:
    """Until a GPU has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def pretrained_resnet50(size: Size, device: torch.device) -> Backbone:
    """Random weights with a head of pre-training, frozen and in evaluation mode."""
    names = [f"class {label}" for label in range(SOURCE_CLASSES)]
    description = Description(
        {"name": "torchvision", "model": "resnet50"}, preprocessing(size.crop, size.stored), class_names=names
    )
    return build_backbone(description, 0).to(device).eval().requires_grad_(False)


def preprocessing(crop: int, stored: int) -> dict[str, Any]:
    """Of ImageNet's weights."""
    return {"resize": stored, "crop": crop, "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}


def samples(labels: np.ndarray, classes: int) -> Samples:
    """A manifest's rows, all of them training images."""
    ids = [f"{number:06}" for number in range(len(labels))]
    names = [f"class {label}" for label in range(classes)]
    return Samples(Path("manifest.parquet"), ids, np.full(len(ids), "train"), labels, names)


def write_noise(path: Path, size: Size) -> Path:
    """Images of noise in a cache of decoded ones: no step looks at what they show."""
    shape = (size.images, size.stored, size.stored, 3)
    np.save(path, np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8))
    return path


def _fine_tuning(name: str, pretrained: Backbone) -> Learner:
    names = [f"class {label}" for label in range(CLASSES)]
    model = build_backbone(replace(pretrained.description, class_names=names), 0)
    model.encoder.load_state_dict(pretrained.encoder.state_dict())
    return FineTuning(model, _objective(name, pretrained, model, names))


def _objective(name: str, pretrained: Backbone, model: Backbone, class_names: list[str]) -> Objective:
    """With the settings that a recipe has by default; what is made before training is made up."""
    settings = TypeAdapter(AnyObjective).validate_python({"name": name}).model_dump()
    if name == "delta":
        # Measuring attention passes images for each channel, which no step does; any weights cost the same.
        channels = {
            path: pretrained.encoder.get_submodule(path).out_channels
            for path in last_of_stages(pretrained.encoder)
        }
        weights = {path: torch.full((wide,), 1 / wide) for path, wide in channels.items()}
        return Delta(
            pretrained.encoder,
            tuple(channels),
            weights,
            settings["alpha"],
            settings["beta"],
            settings["normalise"],
        )
    if name == "co_tuning":
        settings |= {"relationship": "direct"}
    start = Start(
        width=pretrained.width,
        class_names=class_names,
        source_head=build_backbone(pretrained.description, 1).head,
        source_class_names=pretrained.description.class_names or [],
        source_logits=_made_up_logits,
        pretrained=pretrained,
        backbone=model,
        training=lambda _count: iter(()),
    )
    return importlib.import_module(f"pipeline.objectives.{name}").build(settings, start)


def _made_up_logits(_part: str) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    return random.normal(size=(2 * CLASSES, SOURCE_CLASSES)), np.arange(2 * CLASSES) % CLASSES


def _stage(name: str, pretrained: Backbone) -> Learner:
    backbone = build_backbone(replace(pretrained.description, class_names=None), 0)
    backbone.encoder.load_state_dict(pretrained.encoder.state_dict())
    component = importlib.import_module(f"pipeline.initialisation.{name}")
    return component.build(backbone, Coin(name=STAGE).model_dump(), [])


def _stream(
    stored: Path, size: Size, pretrained: Backbone, objective: Objective, device: torch.device
) -> ImageStream:
    """Batches of the target, as many views and draws of each image as the objective wants."""
    labels = np.arange(size.images) % CLASSES
    return target_stream(
        samples(labels, CLASSES),
        np.arange(size.images),
        open_images(stored, size.images),
        {"batch_size": size.batch, "augmentation": augmentation()},
        pretrained.description.preprocessing,
        0,
        device,
        objective.views,
        objective.draws,
    )


def augmentation() -> dict[str, Any]:
    """A random resized crop and flip, as torchvision's RandomResizedCrop draws it."""
    return Augmentation(resized_crop=(0.08, 1.0), flip=True).model_dump()


def _batches(stream: ImageStream) -> Iterator[Batch]:
    for epoch in count():
        yield from stream.epoch(epoch)
