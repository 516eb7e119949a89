"""A run of real image files, from an image folder to its metrics, that more than one test file takes."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import TypeAdapter

KEYS = {"backbone": "small", "target": "shapes", "selection": "none", "recipe": "plain", "seed": 0}
DESCRIPTION = {
    "architecture": {"name": "small_resnet", "widths": [8, 12], "blocks": 1, "stem_stride": 1},
    "preprocessing": {"resize": 25, "crop": 20, "mean": [0.5, 0.4, 0.6], "std": [0.25, 0.3, 0.2]},
}
CLASS_NAMES = ["cat", "dog | <b>wolf<-b>", "owl"]


@dataclass(frozen=True)
class TrainedRun:
    """A run and the files that its images come from.

    Attributes:
        folder: Of the run, in a results folder.
        images: Root of the image folder; a ``sample_id`` is a path below it.
        results: The results folder.
    """

    folder: Path
    images: Path
    results: Path

    @property
    def model(self) -> Path:
        """The run's model."""
        return self.folder / "model.safetensors"


@pytest.fixture(scope="session")
def trained_run(
    tmp_path_factory: pytest.TempPathFactory, tuning: Callable[..., dict[str, Any]]
) -> TrainedRun:
    """Photos of any shape and mode, listed, decoded, fine-tuned on and evaluated by the steps' own code."""
    root = tmp_path_factory.mktemp("trained")
    results, images = root / "results", root / "photos"
    _draw(images)
    threads = torch.get_num_threads()
    try:
        folder = _train(results, images, tuning)
    finally:
        torch.set_deterministic_debug_mode("default")
        torch.set_num_threads(threads)
    return TrainedRun(folder, images, results)


def _draw(root: Path) -> None:
    """Per class and part images in several formats, modes, shapes and orientations."""
    random = np.random.default_rng(0)
    kinds = [
        ("png", "RGB", (40, 30), None),
        ("jpg", "RGB", (33, 61), 6),
        ("png", "RGBA", (25, 25), None),
        ("png", "L", (20, 90), None),
        ("webp", "RGB", (57, 38), None),
    ]
    for label, name in enumerate(CLASS_NAMES):
        for part, count in (("train", 5), ("val", 3), ("test", 5)):
            folder = root / part / name
            folder.mkdir(parents=True)
            for number in range(count):
                suffix, mode, (width, height), turned = kinds[number]
                noise = random.integers(0, 120, (height, width, 4)) + 60 * label
                image = Image.fromarray(noise.astype(np.uint8)).convert(mode)
                exif = Image.Exif()
                if turned:
                    exif[0x0112] = turned
                image.save(folder / f"{number}.{suffix}", exif=exif)


def _train(results: Path, images: Path, tuning: Callable[..., dict[str, Any]]) -> Path:
    from pipeline.backbones.backbone import Description, build_backbone
    from pipeline.backbones.files import save_backbone
    from pipeline.config.datasets import AnyDataset
    from pipeline.datasets.image_folder import read
    from pipeline.datasets.manifest import write_manifest
    from pipeline.evaluation.metrics import Outputs, evaluate
    from pipeline.finetuning.finetune import finetune
    from pipeline.images.cache import write_images
    from pipeline.provenance import Provenance, digest_of_file

    given = {"format": "image_folder", "path": str(images)}
    entry = TypeAdapter(AnyDataset).validate_python(given).model_dump(mode="json")
    dataset = results / "datasets" / KEYS["target"]
    manifest, pixels = dataset / "manifest.parquet", dataset / "images_25.npy"
    placeless = {key: value for key, value in entry.items() if key != "path"}
    write_manifest(read(entry), manifest, entry, Provenance("pipeline.datasets", placeless, "test=1", {}), 1)
    write_images(manifest, pixels, 25, 1)
    weights = results / "backbones" / KEYS["backbone"] / "weights.safetensors"
    made = {"origin": "torchvision", "weights": "Made_Up.WEIGHTS"}
    save_backbone(
        weights, build_backbone(Description(**DESCRIPTION), 3), Provenance("pipeline.backbones", made, "", {})
    )
    settings = tuning(checkpoint="best", chosen=["optimiser.learning_rate"], evaluate_every=1, run=KEYS)
    inputs = {"manifest": digest_of_file(manifest), "weights": digest_of_file(weights)}
    folder = results.joinpath("runs", *(str(KEYS[key]) for key in list(KEYS)[:-1]), "seed0")
    record = Provenance("pipeline.finetuning", settings, "pipeline.finetuning=0123456789abcdef", inputs)
    finetune(manifest, pixels, weights, folder, None, json.loads(json.dumps(settings)), record)
    predictions = folder / "predictions.parquet"
    evaluated = Provenance("pipeline.evaluation", {}, "", {"predictions": digest_of_file(predictions)})
    outputs = Outputs(*(folder / f"{name}.parquet" for name in Outputs._fields))
    evaluate(predictions, folder / "features.parquet", manifest, outputs, {"run": KEYS}, evaluated)
    return folder
