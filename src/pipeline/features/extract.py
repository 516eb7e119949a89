"""Extract a shard of features."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from pipeline.backbones.backbone import Backbone
from pipeline.backbones.files import load_backbone
from pipeline.engine.augmentation import Normalisation
from pipeline.engine.device import prepare_device
from pipeline.errors import PipelineError, listed
from pipeline.images.cache import open_images
from pipeline.images.shards import shard_bounds
from pipeline.images.threads import map_in_order
from pipeline.progress import bar
from pipeline.provenance import Provenance
from pipeline.tables import feature_column, read_table, write_table


def extract(
    manifest: Path,
    images: Path,
    weights: Path,
    output: Path,
    shard: tuple[int, int],
    settings: Mapping[str, Any],
    provenance: Provenance,
) -> None:
    """Write the features of one contiguous part of a manifest's rows.

    Images are read and normalised a batch ahead, in a thread, and passed through the network in
    batches that start at multiples of the batch size in the manifest, so that where the shards
    are cut changes no batch and no result.

    Args:
        manifest: Table of images.
        images: Its decoded images.
        weights: The backbone; its preprocessing is used.
        output: A features table.
        shard: Number from 0, and how many there are.
        settings: ``feature_layer``, ``batch_size`` and ``threads``.
        provenance: Kept in the table.

    Raises:
        PipelineError: If a feature is not finite, naming the shard, rows of the manifest and samples.
    """
    device = prepare_device(settings["threads"])
    backbone = load_backbone(weights).to(device).eval()
    samples = read_table("manifest", manifest, ["sample_id", "split", "label"])
    pixels = open_images(images, len(samples))
    first, last = shard_bounds(len(samples), settings["batch_size"], *shard)
    forward = _Forward(backbone, settings["feature_layer"], pixels, device)
    starts = range(first, last, settings["batch_size"])
    batches = ((start, min(start + settings["batch_size"], last)) for start in starts)
    parts: list[np.ndarray] = []
    with bar("features", "image", last - first) as progress:
        for start, feature in zip(starts, forward(batches), strict=True):
            _check_finite(feature, samples["sample_id"], start, f"{manifest}, shard {shard[0]} of {shard[1]}")
            parts.append(feature)
            progress.update(len(feature))
    columns = {name: samples[name].slice(first, last - first) for name in samples.column_names}
    columns["feature"] = feature_column(np.concatenate(parts or [forward.empty()]))
    write_table("features", output, columns, provenance)


class _Forward:
    """From row numbers to features, float32 (n, d), batch by batch."""

    def __init__(self, backbone: Backbone, layer: str, pixels: np.ndarray, device: torch.device):
        self.backbone, self.layer, self.pixels, self.device = backbone, layer, pixels, device
        self.normalise = Normalisation(backbone.description.preprocessing)

    def __call__(self, batches: Iterable[tuple[int, int]]) -> Iterator[np.ndarray]:
        """Features of the rows from the first number up to the second of each pair."""
        for images in map_in_order(self._input, batches, workers=1):
            yield self._features(images)

    def empty(self) -> np.ndarray:
        """Features of no image, (0, d)."""
        return self._features(self._input((0, 1)))[:0]

    @torch.inference_mode()
    def _input(self, rows: tuple[int, int]) -> torch.Tensor:
        decoded = torch.from_numpy(np.array(self.pixels[slice(*rows)]))
        return self.normalise(decoded.to(self.device))

    @torch.inference_mode()
    def _features(self, images: torch.Tensor) -> np.ndarray:
        return self.backbone.features(images, self.layer).float().cpu().numpy()


def _check_finite(feature: np.ndarray, sample_ids: pa.ChunkedArray, first: int, place: str) -> None:
    bad = first + np.flatnonzero(~np.isfinite(feature).all(1))
    if len(bad):
        names = sample_ids.take(bad[:10]).to_pylist()
        rows = [f"row {row}, sample {name!r}" for row, name in zip(bad[:10], names, strict=True)]
        raise PipelineError(
            f"{place}: features are not finite for {len(bad)} images from row {first} to "
            f"{first + len(feature) - 1} of the manifest (rows count from 0); are the weights sound?\n"
            f"{listed(rows, len(bad))}"
        )
