"""The stage before fine-tuning: what each does to the weights, what it hands over, its schedule."""

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from pipeline.backbones.backbone import Description, build_backbone
from pipeline.backbones.files import load_backbone, save_backbone
from pipeline.engine.layers import mlp
from pipeline.engine.optimisation import rate_factor
from pipeline.engine.randomness import seeded
from pipeline.engine.window import Window
from pipeline.errors import PipelineError
from pipeline.initialisation.carried import save_carried, take_over
from pipeline.initialisation.initialise import initialise
from pipeline.initialisation.noisy_tune import build as noisy_tune
from pipeline.provenance import Provenance
from pipeline.s_dbw import s_dbw
from pipeline.tables import read_samples, read_table

pytestmark = pytest.mark.usefixtures("torch_as_before")

DESCRIPTION = Description(
    architecture={"name": "small_resnet", "widths": [4, 6], "blocks": 1, "stem_stride": 1},
    preprocessing={"resize": 10, "crop": 10, "mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25]},
    class_names=["class 0", "class 1"],
)
STAGES = {
    "coin": {
        **{"name": "coin", "share": 0.5, "schedule": "joint", "temperature": 0.3},
        **{"projection": 4, "hidden": None},
    },
    "linear_probe": {"name": "linear_probe", "share": 0.5, "schedule": "joint"},
    "noisy_tune": {"name": "noisy_tune", "noise": 0.15},
}


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory, record: Provenance) -> Path:
    path = tmp_path_factory.mktemp("backbone") / "weights.safetensors"
    save_backbone(path, build_backbone(DESCRIPTION, seed=3), record)
    return path


@pytest.fixture
def staged(
    tmp_path: Path,
    weights: Path,
    training: Callable[..., Any],
    make_dataset: Callable[..., Any],
    record: Provenance,
) -> Callable[..., Path]:
    """A function that runs a stage of a budget of four epochs and gives its folder."""
    target = make_dataset(tmp_path / "target", seed=1)

    def run(
        name: str,
        seed: int = 0,
        folder: str = "stage",
        training_changes: Mapping[str, Any] = MappingProxyType({}),
        may_diverge: bool = False,
        **changes: Any,
    ) -> Path:
        settings = training(
            budget={"epochs": 4, "iterations": None},
            initialise=STAGES[name] | changes,
            batch_norm="trained",
            fit_on=["train"],
            may_diverge=may_diverge,
            seed=seed,
        )
        settings |= training_changes
        initialise(target.manifest, target.images, weights, tmp_path / folder, settings, record)
        return tmp_path / folder

    return run


def rates(folder: Path) -> list[float]:
    rows = read_table("history", folder / "history.parquet").to_pylist()
    return [row["value"] for row in rows if row["metric"] == "learning_rate"]


def test_coin_trains_the_backbone_and_hands_its_projector_over(
    staged: Callable[..., Path], weights: Path
) -> None:
    folder = staged("coin")
    before, after = load_file(weights), load_file(folder / "weights.safetensors")
    assert before.keys() == after.keys()
    assert not torch.equal(before["encoder.stem.weight"], after["encoder.stem.weight"])
    carried = load_file(folder / "carried.safetensors")
    assert {key: tuple(value.shape) for key, value in carried.items()} == {
        "projector.0.weight": (6, 6),
        "projector.0.bias": (6,),
        "projector.2.weight": (4, 6),
        "projector.2.bias": (4,),
    }


def test_features_of_the_validation_part_are_followed(
    staged: Callable[..., Path], tmp_path: Path, weights: Path
) -> None:
    """Their S_Dbw, and how far they have moved from the pre-trained ones."""
    folder = staged("coin", training_changes={"evaluate_every": 2})
    rows = read_table("history", folder / "history.parquet").to_pylist()
    found = {row["epoch"]: row["value"] for row in rows if row["metric"] == "s_dbw"}
    assert list(found) == [2]
    samples = read_samples(tmp_path / "target/manifest.parquet")
    validation = samples.rows("validation")
    backbone = load_backbone(folder / "weights.safetensors").eval()
    pixels = np.load(tmp_path / "target/images.npy")[validation]
    with torch.no_grad():
        inputs = (torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255 - 0.5) / 0.25
        features = backbone(inputs).numpy()
    expected = s_dbw(features, samples.labels[validation]).value
    assert found[2] == pytest.approx(expected, rel=1e-4)
    with torch.no_grad():
        first = load_backbone(weights).eval()(inputs).numpy()
    moved = np.sqrt(((features - first) ** 2).sum(1)).sum() / np.sqrt((first**2).sum(1)).sum()
    found = {row["epoch"]: row["value"] for row in rows if row["metric"] == "feature_distance"}
    assert found == {2: pytest.approx(moved, rel=1e-3)}
    assert moved > 0.01


def test_a_stage_that_may_diverge_leaves_the_weights_it_began_with(
    staged: Callable[..., Path], weights: Path, training: Callable[..., Any]
) -> None:
    fatal = {"optimiser": {**training()["optimiser"], "learning_rate": 1e30}}
    with pytest.raises(PipelineError, match="the loss is"):
        staged("coin", folder="strict", training_changes=fatal)
    folder = staged("coin", training_changes=fatal, may_diverge=True)
    before, after = load_file(weights), load_file(folder / "weights.safetensors")
    assert all(torch.equal(after[name], value) for name, value in before.items())


def test_a_linear_probe_trains_its_head_alone(staged: Callable[..., Path], weights: Path) -> None:
    folder = staged("linear_probe")
    before, after = load_file(weights), load_file(folder / "weights.safetensors")
    for name, value in before.items():  # statistics of batch normalisation among them
        assert torch.equal(after[name], value), name
    carried = load_file(folder / "carried.safetensors")
    assert {key: tuple(value.shape) for key, value in carried.items()} == {
        "head.weight": (3, 6),
        "head.bias": (3,),
    }
    rows = read_table("history", folder / "history.parquet").to_pylist()
    losses = [row["value"] for row in rows if row["metric"] == "loss"]
    assert losses[-1] < losses[0]


def test_noise_is_uniform_within_its_bounds(staged: Callable[..., Path], weights: Path) -> None:
    backbone = build_backbone(DESCRIPTION, seed=0)
    with torch.no_grad():
        backbone.encoder.stages[0].first.weight.copy_(torch.randn(4, 4, 3, 3) * 5)
        wide = nn.Linear(400, 500)
        backbone.encoder.add_module("wide", wide)
    before = {name: value.clone() for name, value in backbone.encoder.state_dict().items()}
    with seeded(0, "noise"):
        noisy_tune(backbone, {"noise": 0.4}, [])
    for name, value in backbone.encoder.state_dict().items():
        shift = (value - before[name]).double()
        if name.endswith(("running_mean", "running_var", "num_batches_tracked")):
            assert not shift.any(), name
            continue
        bound = 0.2 * float(before[name].double().std(correction=0))
        assert float(shift.abs().max()) <= bound * (1 + 1e-5), name
        if name == "wide.weight":  # 200,000 numbers: the deviation of a uniform one is bound / sqrt(3)
            assert float(shift.std()) == pytest.approx(bound / np.sqrt(3), rel=0.01)
            assert abs(float(shift.mean())) < 0.01 * bound
    folder = staged("noisy_tune")
    assert not load_file(folder / "carried.safetensors")
    again, other = staged("noisy_tune", folder="again"), staged("noisy_tune", seed=1, folder="other")
    first, same, different = (load_file(path / "weights.safetensors") for path in (folder, again, other))
    assert all(torch.equal(first[key], same[key]) for key in first)
    assert not torch.equal(first["encoder.stem.weight"], different["encoder.stem.weight"])
    assert load_backbone(folder / "weights.safetensors").head is not None
    assert len(read_table("history", folder / "history.parquet")) == 0


def test_layers_are_taken_over_where_name_and_shape_agree(tmp_path: Path, record: Provenance) -> None:
    given = mlp(6, 6, 4)
    save_carried(tmp_path / "carried.safetensors", [("projector", given)], record)
    same, wider, deeper, head = mlp(6, 6, 4), mlp(6, 6, 5), mlp(6, 6, 4, depth=3), nn.Linear(6, 4)
    untouched = wider.state_dict()["2.weight"].clone()
    path = tmp_path / "carried.safetensors"
    assert take_over(path, [("head", head), ("projector", same)]) == ["projector"]
    assert all(torch.equal(value, same.state_dict()[key]) for key, value in given.state_dict().items())
    assert take_over(path, [("projector", wider)]) == []
    assert torch.equal(wider.state_dict()["2.weight"], untouched)
    assert take_over(path, [("projector", deeper)]) == []
    assert take_over(path, [("head", head)]) == []


def test_the_schedule_runs_on_over_the_joint_budget_or_restarts(staged: Callable[..., Path]) -> None:
    """Three batches in each of four epochs; the last step of the second epoch is step 5 of 12, or of 6."""
    cosine = {"name": "cosine", "warmup": 0.0, "final": 0.0}
    assert rates(staged("coin"))[-1] == pytest.approx(0.05 * rate_factor(cosine, 5, 12, 3))
    assert rates(staged("coin", folder="restart", schedule="restart"))[-1] == pytest.approx(
        0.05 * rate_factor(cosine, 5, 6, 3)
    )
    second = Window.of_budget({"epochs": 4, "iterations": None}, 3, 1, (0.5, 1))
    assert second.place(6) == (6, 12)
    assert second.in_cycles(1).place(6) == (0, 6)
    assert second.in_cycles(3).cycles == (6, 8, 10, 12)
    assert [second.in_cycles(3).place(step) for step in (6, 7, 8, 11)] == [(0, 2), (1, 2), (0, 2), (1, 2)]
    assert [second.in_cycles(3).cycle(step) for step in range(6, 12)] == [0, 0, 1, 1, 2, 2]
    with pytest.raises(PipelineError, match="a schedule of 7 cycles in 6 steps"):
        second.in_cycles(7)
