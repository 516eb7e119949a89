"""Feature extraction from decoded images against the bare forward pass on tensors in memory."""

import json
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline.backbones.backbone import Description, build_backbone
from pipeline.backbones.files import load_backbone, save_backbone
from pipeline.features.extract import extract
from pipeline.provenance import Provenance
from pipeline.tables import write_table

RUNS = 5
NOBODY = Provenance("benchmark", {}, "none", {}, {})
CASES: dict[str, dict[str, Any]] = {
    "ResNet-18, 224 pixels": {
        "architecture": {"name": "torchvision", "model": "resnet18"},
        "size": 224,
        "images": 128,
        "batch_size": 32,
    },
    "small ResNet, 28 pixels": {
        "architecture": {"name": "small_resnet", "widths": [16, 32, 64], "blocks": 1, "stem_stride": 2},
        "size": 28,
        "images": 32_768,
        "batch_size": 256,
    },
}


def measure(folder: Path) -> list[dict[str, Any]]:
    """A row per case: images a second of both, in turn, one thread of arithmetic each."""
    torch.set_num_threads(1)
    return [_case(folder, name, case) for name, case in CASES.items()]


def _case(folder: Path, name: str, case: dict[str, Any]) -> dict[str, Any]:
    manifest, weights = folder / "manifest.parquet", folder / "weights.safetensors"
    _write_inputs(folder, case)
    preprocessing = {"resize": case["size"], "crop": case["size"], "mean": [0.5] * 3, "std": [0.25] * 3}
    description = Description(case["architecture"], preprocessing)
    save_backbone(weights, build_backbone(description, 0), NOBODY)
    settings = {"feature_layer": "penultimate", "batch_size": case["batch_size"], "threads": 1}
    ours, bare = [], []
    for _ in range(RUNS + 1):
        started = time.perf_counter()
        extract(
            manifest, folder / "images.npy", weights, folder / "features.parquet", (0, 1), settings, NOBODY
        )
        ours.append(case["images"] / (time.perf_counter() - started))
        bare.append(_bare(weights, case))
    ratios = [ours / peer for ours, peer in zip(ours[1:], bare[1:], strict=True)]
    return {
        "benchmark": "feature extraction",
        "case": name,
        "measured": statistics.median(ours[1:]),
        "unit": "images/s",
        "peer": "bare forward pass on tensors in memory",
        "peer_value": statistics.median(bare[1:]),
        "compared": statistics.median(ratios),
        "limit": "at least 0.90",
        "kept": statistics.median(ratios) >= 0.90,
        "runs": RUNS,
    }


def _write_inputs(folder: Path, case: dict[str, Any]) -> None:
    """A manifest whose images no step opens, and the decoded ones that it reads."""
    count, size = case["images"], case["size"]
    columns = {
        "sample_id": [f"{number:06}" for number in range(count)],
        "image": [{"bytes": b"", "path": None}] * count,
        "split": ["train"] * count,
        "label": [number % 2 for number in range(count)],
        "class_name": ["ab"[number % 2] for number in range(count)],
        "width": [size] * count,
        "height": [size] * count,
    }
    manifest = folder / "manifest.parquet"
    write_table("manifest", manifest, columns, NOBODY, {"class_names": json.dumps(["a", "b"])})
    pixels = np.random.default_rng(0).integers(0, 256, (count, size, size, 3), dtype=np.uint8)
    np.save(folder / "images.npy", pixels)


@torch.inference_mode()
def _bare(weights: Path, case: dict[str, Any]) -> float:
    """Images a second of the network alone, in the same batches."""
    backbone = load_backbone(weights).eval()
    shape = (case["batch_size"], 3, case["size"], case["size"])
    batch = torch.randn(shape).contiguous(memory_format=torch.channels_last)
    started = time.perf_counter()
    for _ in range(case["images"] // case["batch_size"]):
        backbone(batch)
    return case["images"] / (time.perf_counter() - started)
