"""A vision transformer with MAE's weights through COIN, every objective and layer-wise decay."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.backbones.backbone import Description, build_backbone
from pipeline.backbones.files import load_backbone, save_backbone
from pipeline.config.loading import complete_settings
from pipeline.finetuning.finetune import finetune
from pipeline.initialisation.initialise import initialise
from pipeline.provenance import Provenance
from pipeline.tables import read_table

pytestmark = pytest.mark.usefixtures("torch_as_before")

DESCRIPTION = Description(
    architecture={
        **{"name": "vit", "image_size": 16, "patch_size": 4, "width": 12, "depth": 3, "heads": 2},
        **{"mlp_width": 24, "pooling": "mean"},
    },
    preprocessing={"resize": 16, "crop": 16, "mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25]},
)
OBJECTIVES = [
    {"name": "cross_entropy"},
    {"name": "l2_sp"},
    {"name": "delta", "attention_images": 4, "fitting_images": 12},
    {"name": "bss"},
    {"name": "rifle", "cycles": 2},
    {"name": "mix_and_match"},
    {"name": "scl", "projection": 8},
    {"name": "bi_tuning", "queue": 4, "projection": 8},
    {"name": "core_tuning", "projection": 8},
]


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory, make_dataset: Callable[..., Any]) -> Any:
    return make_dataset(tmp_path_factory.mktemp("target"), seed=1, size=16)


@pytest.fixture(scope="module")
def recipe() -> Callable[..., dict[str, Any]]:
    """A function that gives a recipe as a step gets it: layer-wise decay, and COIN for half the budget."""

    def make(**changes: Any) -> dict[str, Any]:
        given = {
            "budget": {"epochs": 4},
            "batch_size": 8,
            "optimiser": {"name": "adam", "learning_rate": 0.01, "weight_decay": 0.05, "layer_decay": 0.75},
            "schedule": {"name": "cosine", "warmup": 1},
            "initialise": {"name": "coin", "share": 0.5, "projection": 8},
            **changes,
        }
        return {**complete_settings("recipes", given, ""), "fit_on": ["train"], "may_diverge": False}

    return make


@pytest.fixture(scope="module")
def started(
    tmp_path_factory: pytest.TempPathFactory, target: Any, recipe: Callable[..., Any], record: Provenance
) -> Path:
    """The folder of the stage."""
    folder = tmp_path_factory.mktemp("coin")
    weights = folder / "backbone.safetensors"
    save_backbone(weights, build_backbone(DESCRIPTION, seed=3), record)
    initialise(target.manifest, target.images, weights, folder, {**recipe(), "seed": 0}, record)
    return folder


def test_layers_near_the_input_move_less(started: Path) -> None:
    """Adam moves each weight by about its rate a step, whatever its gradient."""
    rows = read_table("distances", started / "distances.parquet").to_pylist()
    moved = {row["weight"]: row["distance"] for row in rows if row["epoch"] == 2}
    sizes = {
        name: value.numel()
        for name, value in load_backbone(started / "weights.safetensors").encoder.named_parameters()
    }
    by_block = [
        moved[name] / np.sqrt(sizes[name])
        for block in range(3)
        for name in moved
        if f"encoder_layer_{block}.mlp.0.weight" in name
    ]
    assert by_block[0] / by_block[1] == pytest.approx(0.75, rel=0.25)
    assert by_block[1] / by_block[2] == pytest.approx(0.75, rel=0.25)


@pytest.mark.parametrize("objective", OBJECTIVES, ids=lambda settings: settings["name"])
def test_every_objective_goes_on_from_coin(
    tmp_path: Path,
    target: Any,
    started: Path,
    recipe: Callable[..., Any],
    tuning: Callable[..., Any],
    record: Provenance,
    objective: dict[str, Any],
) -> None:
    settings = tuning(**recipe(objective=objective))
    carried = started / "carried.safetensors"
    finetune(
        target.manifest,
        target.images,
        started / "weights.safetensors",
        tmp_path,
        None,
        settings,
        record,
        carried=carried,
    )
    history = read_table("history", tmp_path / "history.parquet").to_pylist()
    losses = [row["value"] for row in history if (row["split"], row["metric"]) == ("train", "loss")]
    assert len(losses) == 2
    assert np.isfinite(losses).all()
    before = load_backbone(started / "weights.safetensors").encoder.state_dict()
    after = load_backbone(tmp_path / "model.safetensors").encoder.state_dict()
    assert not any(torch.equal(before[name], after[name]) for name in before if name.endswith("mlp.0.weight"))
