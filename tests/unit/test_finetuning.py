"""Fine-tuning: which source images are reused, how heads start, and what a run writes."""

import csv
import json
from collections.abc import Callable
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from scipy.special import softmax
from torch import nn
from torchvision.models import ResNet18_Weights

from pipeline.backbones.backbone import Backbone, Description, build_backbone
from pipeline.backbones.files import load_backbone, read_description, save_backbone
from pipeline.engine import distances
from pipeline.engine import train as engine
from pipeline.engine.distances import spread
from pipeline.engine.streams import Batch
from pipeline.errors import PipelineError
from pipeline.finetuning.finetune import finetune
from pipeline.finetuning.heads import same_class
from pipeline.finetuning.learner import FineTuning
from pipeline.finetuning.reused import SourceFiles, selected_images
from pipeline.initialisation.initialise import initialise
from pipeline.objectives.cross_entropy import CrossEntropy
from pipeline.provenance import Provenance
from pipeline.reuse.labelled import LabelledReuse
from pipeline.tables import feature_matrix, read_table, read_table_metadata, write_table

pytestmark = pytest.mark.usefixtures("torch_as_before")

ROOT = Path(__file__).parents[2]
SGD_STILL = {
    "name": "sgd",
    "learning_rate": 1e-12,
    "momentum": 0.0,
    "nesterov": False,
    "weight_decay": 0.0,
    "head_ratio": 1.0,
    "groups": {},
    "layer_decay": 1.0,
}
LABELLED = {
    "name": "labelled",
    "weight": 1.0,
    "batch_size": None,
    "batch_norm": "joint",
    "share": 1.0,
    "draw": 0,
    "head": "random",
}
PSEUDO_LABELLED = {
    **{
        "name": "pseudo_labelled",
        "weight": 1.0,
        "batch_size": None,
        "batch_norm": "joint",
        "share": 1.0,
        "draw": 0,
    },
    **{"operations": 2, "magnitude": 9},
}
CROSS_ENTROPY = {"name": "cross_entropy", "label_smoothing": 0.0}
CO_TUNING = {
    **{"name": "co_tuning", "weight": 2.3, "relationship": "calibrated", "logit_scale": 1.0},
    "regularisation": [10.0, 1.0, 0.1],
}
AUGMENTATION = {
    **{"resized_crop": [0.3, 1.0], "padding": 0, "fill": 0, "flip": True},
    **{"colour_jitter": 0.4, "grey": 0.2, "blur": 0.5},
}
CLASSES = ["class 0", "class 1", "class 2", "class 3"]
DESCRIPTION = Description(
    architecture={"name": "small_resnet", "widths": [4, 6], "blocks": 1, "stem_stride": 1},
    preprocessing={"resize": 10, "crop": 10, "mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25]},
    class_names=CLASSES,
)


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory, make_dataset: Callable[..., Any]) -> Any:
    """Three classes with 24 training, 9 validation and 9 test images."""
    return make_dataset(tmp_path_factory.mktemp("target"), seed=1)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory, make_dataset: Callable[..., Any]) -> Any:
    return make_dataset(tmp_path_factory.mktemp("source"), classes=4, parts=(6, 2, 0))


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory, record: Provenance) -> Path:
    """A backbone that was pre-trained on the source's four classes."""
    path = tmp_path_factory.mktemp("backbone") / "weights.safetensors"
    save_backbone(path, build_backbone(DESCRIPTION, seed=3), record)
    return path


@pytest.fixture
def reusing(tmp_path: Path, source: Any, record: Provenance) -> Callable[..., SourceFiles]:
    """A function that writes membership and selection, and gives the files that reuse reads."""

    def make(units: dict[str, int], selected: set[int], manifest: Path = source.manifest) -> SourceFiles:
        numbers = sorted({*units.values(), *selected})
        membership = {"sample_id": list(units), "unit_id": list(units.values())}
        write_table("membership", tmp_path / "membership.parquet", membership, record)
        selection = {
            "unit_id": numbers,
            "name": [f"unit {number}" for number in numbers],
            "score": [0.0] * len(numbers),
            "rank": list(range(1, len(numbers) + 1)),
            "selected": [number in selected for number in numbers],
        }
        write_table("selection", tmp_path / "selection.parquet", selection, record)
        return SourceFiles(
            manifest, source.images, tmp_path / "membership.parquet", tmp_path / "selection.parquet"
        )

    return make


@pytest.fixture
def tuned(
    tmp_path: Path, target: Any, weights: Path, tuning: Callable[..., Any], record: Provenance
) -> Callable[..., Path]:
    """A function that fine-tunes and gives the folder."""

    def run(
        folder: str = "run",
        files: SourceFiles | None = None,
        given: Any = target,
        start: Path = weights,
        state: Path | None = None,
        **changes: Any,
    ) -> Path:
        settings = tuning(**{"reuse": LABELLED} | changes)
        finetune(given.manifest, given.images, start, tmp_path / folder, files, settings, record, state)
        return tmp_path / folder

    return run


def by_class(source: Any) -> dict[str, int]:
    """Units are the source's classes, numbered from 10."""
    train = np.flatnonzero(source.split == "train")
    return {source.ids[row]: 10 + int(source.labels[row]) for row in train}


def history(folder: Path, metric: str) -> list[float]:
    rows = read_table("history", folder / "history.parquet").to_pylist()
    return [row["value"] for row in rows if row["metric"] == metric and row["split"] == "train"]


def test_selected_images_are_renumbered(source: Any, reusing: Callable[..., SourceFiles]) -> None:
    found = selected_images(reusing(by_class(source), {11, 13}), labelled=True)
    expected = np.flatnonzero((source.split == "train") & np.isin(source.labels, [1, 3]))
    np.testing.assert_array_equal(found.rows, expected)
    np.testing.assert_array_equal(found.classes, [1, 3])
    np.testing.assert_array_equal(found.classes[found.labels], source.labels[found.rows])


def test_clusters_bring_the_classes_of_their_images(source: Any, reusing: Callable[..., SourceFiles]) -> None:
    train = np.flatnonzero(source.split == "train")
    chosen = train[np.isin(source.labels[train], [0, 2])][:5]
    units = {source.ids[row]: int(row in chosen) for row in train}
    found = selected_images(reusing(units, {1}), labelled=True)
    np.testing.assert_array_equal(found.rows, chosen)
    np.testing.assert_array_equal(found.classes[found.labels], source.labels[chosen])


def test_selections_that_cannot_be_reused(
    tmp_path: Path, source: Any, reusing: Callable[..., SourceFiles], make_dataset: Callable[..., Any]
) -> None:
    with pytest.raises(PipelineError, match=r"no image of .*membership\.parquet is selected"):
        selected_images(reusing(by_class(source), {99}), labelled=True)
    with pytest.raises(PipelineError, match="has no sample 'image 9999', which is selected"):
        selected_images(reusing({**by_class(source), "image 9999": 10}, {10}), labelled=True)
    unlabelled = make_dataset(tmp_path / "unlabelled", classes=4, parts=(6, 2, 0), labelled=False)
    with pytest.raises(PipelineError, match="6 selected images have no label to reuse"):
        selected_images(reusing(by_class(source), {10}, unlabelled.manifest), labelled=True)


def test_run_writes_model_predictions_and_features(
    tuned: Callable[..., Path], target: Any, record: Provenance
) -> None:
    folder = tuned()
    tables = ["distances", "features", "history", "predictions", "timings"]
    names = ["checkpoints", "model.safetensors", *(f"{table}.parquet" for table in tables)]
    assert sorted(path.name for path in folder.iterdir()) == sorted(names)
    held_out = np.flatnonzero(target.split != "train")
    predictions = read_table("predictions", folder / "predictions.parquet")
    assert predictions["sample_id"].to_pylist() == [target.ids[row] for row in held_out]
    assert predictions["split"].to_pylist() == target.split[held_out].tolist()
    assert predictions["label"].to_pylist() == target.labels[held_out].tolist()
    # The model that was taken away gives the predictions that were evaluated.
    model = load_backbone(folder / "model.safetensors").eval()
    assert model.head is not None
    pixels = torch.from_numpy(target.pixels[held_out]).permute(0, 3, 1, 2) / 255
    with torch.no_grad():
        features = model((pixels - 0.5) / 0.25)
        expected = torch.softmax(model.head(features), 1).numpy()
    probabilities = feature_matrix(predictions, "probabilities")
    np.testing.assert_allclose(probabilities, expected, atol=1e-5)
    assert predictions["prediction"].to_pylist() == probabilities.argmax(1).tolist()
    table = read_table("features", folder / "features.parquet")
    np.testing.assert_allclose(feature_matrix(table), features.numpy(), rtol=1e-3, atol=1e-5)
    assert read_description(folder / "model.safetensors").class_names == ["class 0", "class 1", "class 2"]


def test_history_says_how_far_features_have_moved(
    tuned: Callable[..., Path], target: Any, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of five of the nine validation images, the last after training against the first before it."""
    monkeypatch.setattr(distances, "FOLLOWED", 5)
    folder = tuned(evaluate_every=1)
    rows = read_table("history", folder / "history.parquet").to_pylist()
    found = [row["value"] for row in rows if row["metric"] == "feature_distance"]
    assert [row["epoch"] for row in rows if row["metric"] == "feature_distance"] == [1, 2, 3]
    assert {row["split"] for row in rows if row["metric"] == "feature_distance"} == {"validation"}
    chosen = np.flatnonzero(target.split == "validation")[[0, 2, 4, 6, 8]]
    pixels = (torch.from_numpy(target.pixels[chosen]).permute(0, 3, 1, 2) / 255 - 0.5) / 0.25
    with torch.no_grad():
        before, after = (
            load_backbone(path).eval().encoder(pixels) for path in (weights, folder / "model.safetensors")
        )
    moved = [float((now - then).square().sum().sqrt()) for now, then in zip(after, before, strict=True)]
    norms = [float(then.square().sum().sqrt()) for then in before]
    assert found[-1] == pytest.approx(sum(moved) / sum(norms), rel=1e-4)
    assert found[-1] > 0.01
    still = tuned("still", trainable="head", evaluate_every=1)
    rows = read_table("history", still / "history.parquet").to_pylist()
    assert [row["value"] for row in rows if row["metric"] == "feature_distance"] == pytest.approx(
        [0, 0, 0], abs=1e-6
    )


def test_learns_a_target_of_different_colours(tuned: Callable[..., Path]) -> None:
    folder = tuned(budget={"epochs": 25, "iterations": None})
    predictions = read_table("predictions", folder / "predictions.parquet")
    hits = np.array(predictions["label"]) == np.array(predictions["prediction"])
    assert hits.mean() > 0.8


def test_starts_from_the_backbone_or_from_scratch(tuned: Callable[..., Path], weights: Path) -> None:
    """At a rate of almost nothing, the weights in the end are those of the start."""
    start = load_backbone(weights).encoder.state_dict()["stem.weight"]
    kept = load_backbone(tuned("kept", optimiser=SGD_STILL) / "model.safetensors")
    torch.testing.assert_close(kept.encoder.state_dict()["stem.weight"], start)
    scratch = load_backbone(tuned("scratch", optimiser=SGD_STILL, from_scratch=True) / "model.safetensors")
    assert not torch.allclose(scratch.encoder.state_dict()["stem.weight"], start, atol=0.01)
    assert kept.head is not None
    assert scratch.head is not None
    # Both draw the same new head from the seed.
    torch.testing.assert_close(kept.head.weight, scratch.head.weight)
    other = load_backbone(tuned("other", optimiser=SGD_STILL, run={"seed": 1}) / "model.safetensors")
    assert other.head is not None
    assert not torch.allclose(kept.head.weight, other.head.weight, atol=0.01)


def spied_learners(monkeypatch: pytest.MonkeyPatch) -> list[FineTuning]:
    """Every learner that is made from now on."""
    learners: list[FineTuning] = []
    made = FineTuning.__init__

    def spy(self: FineTuning, *parts: Any) -> None:
        made(self, *parts)
        learners.append(self)

    monkeypatch.setattr(FineTuning, "__init__", spy)
    return learners


def test_source_head_starts_from_pretraining(
    tuned: Callable[..., Path],
    source: Any,
    reusing: Callable[..., SourceFiles],
    weights: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Rows of the pre-training head for the selected classes, in their order."""
    learners = spied_learners(monkeypatch)
    files = reusing(by_class(source), {11, 13})
    reuse = LABELLED | {"head": "pretraining"}
    tuned("given", files, reuse=reuse, optimiser=SGD_STILL)
    tuned("random", files, optimiser=SGD_STILL)
    expected = load_backbone(weights).head
    assert expected is not None
    given, drawn = (learner.state_dict() for learner in learners)
    torch.testing.assert_close(given["reuse.head.weight"], expected.weight[[1, 3]].detach())
    torch.testing.assert_close(given["reuse.head.bias"], expected.bias[[1, 3]].detach())
    assert drawn["reuse.head.weight"].shape == (2, 6)
    assert not torch.allclose(drawn["reuse.head.weight"], given["reuse.head.weight"], atol=0.01)


def test_source_head_needs_a_head(
    tmp_path: Path,
    tuned: Callable[..., Path],
    source: Any,
    reusing: Callable[..., SourceFiles],
    record: Provenance,
) -> None:
    headless = Backbone(Description(**{**DESCRIPTION.to_dict(), "class_names": None}))
    path = tmp_path / "headless.safetensors"
    save_backbone(path, headless, record)
    reuse = LABELLED | {"head": "pretraining"}
    with pytest.raises(PipelineError, match="this backbone has no such head"):
        tuned("run", reusing(by_class(source), {10}), start=path, reuse=reuse)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (
            ["Class 0", "class 2", "class 1", "class 3"],
            "class 1 of its head is 'class 2'; of the source",
        ),
        (["class 0", "class 1", "class 2"], "head has 3 classes; the source has 4"),
    ],
)
def test_source_head_is_for_the_classes_of_the_source(
    tmp_path: Path,
    tuned: Callable[..., Path],
    source: Any,
    reusing: Callable[..., SourceFiles],
    record: Provenance,
    names: list[str],
    message: str,
) -> None:
    path = tmp_path / "other.safetensors"
    save_backbone(path, build_backbone(replace(DESCRIPTION, class_names=names), seed=3), record)
    with pytest.raises(PipelineError, match=message):
        tuned("run", reusing(by_class(source), {10}), start=path, reuse=LABELLED | {"head": "pretraining"})


def test_published_weights_name_imagenets_classes_in_the_order_of_its_archive() -> None:
    """By the first synonym of each, but for two names without their comma."""
    table = (ROOT / "data" / "imagenet_concepts.csv").read_text(encoding="utf-8")
    of_source = [row["class_name"] for row in csv.DictReader(table.splitlines())]
    of_head = ResNet18_Weights.IMAGENET1K_V1.meta["categories"]
    assert len(of_source) == len(of_head) == 1000
    found = zip(of_head, of_source, range(1000), strict=True)
    assert [label for name, other, label in found if not same_class(name, other, label)] == []
    assert not same_class(of_head[0], of_source[1], 1)


def test_batches_hold_as_many_source_as_target_images(
    tuned: Callable[..., Path], source: Any, reusing: Callable[..., SourceFiles]
) -> None:
    """UOT paper, section 4.1: a total of twice the batch size."""
    folder = tuned("run", reusing(by_class(source), {10, 12}), batch_size=9)
    assert read_table("timings", folder / "timings.parquet")["images"].to_pylist() == [48, 48, 48]
    total, objective, reused = (np.array(history(folder, name)) for name in ("loss", "objective", "reuse"))
    np.testing.assert_allclose(total, objective + reused, rtol=1e-5)


def test_best_checkpoint_needs_a_validation_part(
    tmp_path: Path, tuned: Callable[..., Path], make_dataset: Callable[..., Any]
) -> None:
    without = make_dataset(tmp_path / "without", parts=(8, 0, 3))
    with pytest.raises(PipelineError, match="checkpoint: best needs a validation part, and it has none"):
        tuned("run", given=without, checkpoint="best")
    folder = tuned("last", given=without)
    assert set(read_table("predictions", folder / "predictions.parquet")["split"].to_pylist()) == {"test"}


def test_equal_runs_give_equal_files(
    tuned: Callable[..., Path], source: Any, reusing: Callable[..., SourceFiles]
) -> None:
    files = reusing(by_class(source), {10, 12})
    torch.manual_seed(1)
    first = tuned("first", files, augmentation=AUGMENTATION)
    torch.manual_seed(2)
    second = tuned("second", files, augmentation=AUGMENTATION)
    for name in ("model.safetensors", "history.parquet", "predictions.parquet", "features.parquet"):
        assert (first / name).read_bytes() == (second / name).read_bytes(), name


# Reuse without labels (UOT paper, Eq. 7)


@pytest.fixture(scope="module")
def unlabelled(tmp_path_factory: pytest.TempPathFactory, make_dataset: Callable[..., Any]) -> Any:
    """The source's images without their labels."""
    return make_dataset(tmp_path_factory.mktemp("unlabelled"), classes=4, parts=(6, 2, 0), labelled=False)


def test_unlabelled_images_are_reused_by_unit(
    unlabelled: Any, source: Any, reusing: Callable[..., SourceFiles]
) -> None:
    found = selected_images(reusing(by_class(source), {11, 13}, unlabelled.manifest), labelled=False)
    expected = np.flatnonzero((source.split == "train") & np.isin(source.labels, [1, 3]))
    np.testing.assert_array_equal(found.rows, expected)
    np.testing.assert_array_equal(found.units, 10 + source.labels[expected])
    assert set(found.labels.tolist()) == {-1}
    assert not len(found.classes)


def spied_batches(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Batch]]:
    """Every batch that fine-tuning sees from now on."""
    seen: list[dict[str, Batch]] = []
    loss = FineTuning.loss

    def spy(self: FineTuning, batches: dict[str, Batch]) -> Any:
        seen.append(batches)
        return loss(self, batches)

    monkeypatch.setattr(FineTuning, "loss", spy)
    return seen


def test_pseudo_labelled_batches(
    tuned: Callable[..., Path],
    unlabelled: Any,
    source: Any,
    reusing: Callable[..., SourceFiles],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Two views of as many source as target images, spread evenly over the selected units."""
    seen = spied_batches(monkeypatch)
    units = by_class(source)
    largest = [sample for sample, unit in units.items() if unit == 10]
    units |= dict.fromkeys(largest[:5], 12)  # a unit of one image beside one of eleven
    folder = tuned("run", reusing(units, {10, 12}, unlabelled.manifest), reuse=PSEUDO_LABELLED)
    for batches in seen:
        of_source, (strong,) = batches["source"], batches["source"].views
        assert strong.shape == of_source.images.shape == batches["target"].images.shape
        assert not torch.equal(strong, of_source.images)
        drawn = [units[source.ids[row]] for row in of_source.samples]
        assert (drawn.count(10), drawn.count(12)) == (4, 4)
    total, objective, reused = (np.array(history(folder, name)) for name in ("loss", "objective", "reuse"))
    np.testing.assert_allclose(total, objective + reused, rtol=1e-5)
    assert (reused > 0).all()


def test_size_of_the_source_batch(
    tuned: Callable[..., Path],
    source: Any,
    reusing: Callable[..., SourceFiles],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen = spied_batches(monkeypatch)
    tuned("run", reusing(by_class(source), {10, 12}), reuse=LABELLED | {"batch_size": 5}, batch_size=9)
    sizes = [(len(batches["target"].labels), len(batches["source"].labels)) for batches in seen]
    assert sizes == [(9, 5), (9, 5), (6, 5)] * 3


class Normalised(nn.Module):
    """A backbone of one batch normalisation over its images' channels."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.head = nn.BatchNorm1d(3), nn.Linear(3, 2)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.layer(images[:, :, 0, 0])


@pytest.mark.parametrize("batch_norm", ["joint", "separate"])
def test_batch_normalisation_sees_both_or_the_target(batch_norm: str) -> None:
    draws = np.random.default_rng(0).normal(size=(2, 8, 3, 1, 1)).astype(np.float32)
    target, source = torch.from_numpy(draws[0]), torch.from_numpy(draws[1] + 5)
    labels = torch.tensor([0, 1] * 4)
    backbone = Normalised()
    reuse = LabelledReuse(nn.Linear(3, 2), 1.0)
    learner = FineTuning(backbone, CrossEntropy(0.0), reuse, batch_norm)  # type: ignore[arg-type]
    loss, _ = learner.loss(
        {"target": Batch(target, labels, np.arange(8), 8), "source": Batch(source, labels, np.arange(8), 8)}
    )
    both = torch.cat([target, source])[:, :, 0, 0]
    counted = both if batch_norm == "joint" else target[:, :, 0, 0]
    torch.testing.assert_close(backbone.layer.running_mean, 0.1 * counted.mean(0))
    torch.testing.assert_close(backbone.layer.running_var, 0.9 + 0.1 * counted.var(0))
    assert backbone.layer.momentum == 0.1

    def normalised(images: torch.Tensor) -> torch.Tensor:
        return (images - images.mean(0)) / (images.var(0, correction=0) + 1e-5).sqrt()

    of_target, of_source = (
        normalised(both).split(8) if batch_norm == "joint" else map(normalised, both.split(8))
    )
    cross_entropy = nn.functional.cross_entropy
    expected = cross_entropy(backbone.head(of_target), labels) + cross_entropy(reuse.head(of_source), labels)
    torch.testing.assert_close(loss, expected)


# Co-Tuning


@pytest.mark.parametrize("relationship", ["direct", "calibrated"])
def test_co_tuning_keeps_its_relationship(
    tuned: Callable[..., Path], target: Any, weights: Path, relationship: str
) -> None:
    """It is of the backbone before training, and goes when another objective runs in its place."""
    folder = tuned(objective=CO_TUNING | {"relationship": relationship})
    path = folder / "relationship.parquet"
    table = read_table("relationship", path)
    assert table["class_name"].to_pylist() == ["class 0", "class 1", "class 2"]
    assert json.loads(read_table_metadata(path)["class_names"]) == CLASSES
    found = feature_matrix(table, "probabilities")
    np.testing.assert_allclose(found.sum(1), 1, rtol=1e-6)
    if relationship == "direct":
        train = np.flatnonzero(target.split == "train")
        model = load_backbone(weights).eval()
        assert model.head is not None
        pixels = torch.from_numpy(target.pixels[train]).permute(0, 3, 1, 2) / 255
        with torch.no_grad():
            logits = model.head(model((pixels - 0.5) / 0.25)).numpy()
        expected = [softmax(logits, axis=1)[target.labels[train] == label].mean(0) for label in range(3)]
        np.testing.assert_allclose(found, expected, rtol=1e-4)
    total, plain, soft = (np.array(history(folder, n)) for n in ("loss", "cross_entropy", "co_tuning"))
    np.testing.assert_allclose(total, plain + 2.3 * soft, rtol=1e-5)
    assert soft[-1] < soft[0]
    tuned()
    assert not path.exists()


def test_source_head_is_trained_at_the_rate_of_the_backbone(
    tuned: Callable[..., Path], weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where new heads hardly move, it does."""
    learners = spied_learners(monkeypatch)
    folder = tuned(objective=CO_TUNING, optimiser=SGD_STILL | {"learning_rate": 0.1, "head_ratio": 1e-12})
    (learner,), before = learners, load_backbone(weights).head
    assert before is not None
    after = learner.state_dict()["objective.source_head.weight"]
    assert not torch.allclose(after, before.weight, atol=1e-3)
    still = tuned("still", optimiser=SGD_STILL)
    first, second = (load_backbone(run / "model.safetensors").head for run in (folder, still))
    assert first is not None
    assert second is not None
    torch.testing.assert_close(first.weight, second.weight)


def test_co_tuning_needs_a_head(tmp_path: Path, tuned: Callable[..., Path], record: Provenance) -> None:
    headless = Backbone(Description(**{**DESCRIPTION.to_dict(), "class_names": None}))
    path = tmp_path / "headless.safetensors"
    save_backbone(path, headless, record)
    with pytest.raises(PipelineError, match="trains the head of pre-training, and this backbone has none"):
        tuned("run", start=path, objective=CO_TUNING)


# Combinations


class KilledError(Exception):
    """Stands for the end of the process."""


@pytest.fixture(scope="module")
def after_coin(
    tmp_path_factory: pytest.TempPathFactory,
    target: Any,
    weights: Path,
    training: Callable[..., Any],
    record: Provenance,
) -> Path:
    """The backbone after two of four epochs of COIN."""
    stage = {
        **{"name": "coin", "share": 0.5, "schedule": "joint"},
        **{"temperature": 0.3, "projection": 4, "hidden": None},
    }
    folder = tmp_path_factory.mktemp("coin")
    own = {"initialise": stage, "batch_norm": "trained", "fit_on": ["train"], "may_diverge": False, "seed": 0}
    settings = training(budget={"epochs": 4, "iterations": None}, **own)
    initialise(target.manifest, target.images, weights, folder, settings, record)
    return folder / "weights.safetensors"


OBJECTIVES = {
    "cross_entropy": CROSS_ENTROPY,
    "co_tuning": CO_TUNING,
    "scl": {"name": "scl", "weight": 0.1, "temperature": 0.3, "projection": 4, "hidden": None},
    "core_tuning": {
        **{"name": "core_tuning", "weight": 1.0, "temperature": 0.07, "alpha": 0.5},
        **{"positive_threshold": 0.8, "negative_threshold": 0.8, "projection": 4, "depth": 2, "hidden": None},
        **{"contrast": "focal", "mixup": "hard", "pairs": "per_anchor", "focal_gradient": "flow"},
    },
    "bi_tuning": {
        **{"name": "bi_tuning", "weight": 1.0, "temperature": 0.07},
        **{"queue": 3, "momentum": 0.9, "projection": 4},
    },
}
PENALISED = {
    "l2_sp": {"alpha": 0.01, "beta": 0.01},
    "delta": {
        **{"alpha": 0.01, "beta": 0.01, "layers": None, "normalise": "sum"},
        **{"attention": True, "attention_images": 5, "fitting_images": 12},
    },
    "bss": {"weight": 0.001, "singular_values": 1},
    "mix_and_match": {"weight": 1.0, "margin": 0.3},
    "rifle": {"cycles": 2},
}
REUSES = {"none": {"name": "none"}, "labelled": LABELLED, "pseudo_labelled": PSEUDO_LABELLED}


@pytest.mark.parametrize(
    ("objective", "reuse", "stage"),
    [*product(OBJECTIVES, REUSES, ["none", "coin"]), *product(PENALISED, ["labelled"], ["none"])],
)
def test_every_combination_trains_and_resumes_bit_for_bit(
    tmp_path: Path,
    tuned: Callable[..., Path],
    source: Any,
    weights: Path,
    after_coin: Path,
    reusing: Callable[..., SourceFiles],
    monkeypatch: pytest.MonkeyPatch,
    objective: str,
    reuse: str,
    stage: str,
) -> None:
    """Two epochs of fine-tuning, killed between them."""
    coin = stage == "coin"
    options = {
        "files": None if reuse == "none" else reusing(by_class(source), {10, 12, 13}),
        "start": after_coin if coin else weights,
        "initialise": {"name": "coin", "share": 0.5} if coin else {"name": "none"},
        "budget": {"epochs": 4 if coin else 2, "iterations": None},
        "objective": OBJECTIVES.get(objective) or {"name": objective, **PENALISED[objective]},
        "reuse": REUSES[reuse],
        "augmentation": AUGMENTATION,
    }
    whole = tuned("whole", **options)
    saved = engine._save

    def save_and_die(*parts: Any) -> None:
        saved(*parts)
        raise KilledError

    with monkeypatch.context() as killing:
        killing.setattr(engine, "_save", save_and_die)
        with pytest.raises(KilledError):
            tuned("killed", **options)
    assert not (tmp_path / "killed/model.safetensors").exists()
    steps = spied_batches(monkeypatch)
    resumed = tuned("killed", **options)
    assert len(steps) == 3  # of the second epoch alone
    losses = history(resumed, "loss")
    assert len(losses) == 2
    assert np.isfinite(losses).all()
    names = sorted(path.name for path in whole.iterdir())
    assert ("relationship.parquet" in names) == (objective == "co_tuning")
    assert sorted(path.name for path in resumed.iterdir()) == names
    for name in set(names) - {"timings.parquet", "checkpoints"}:
        assert (whole / name).read_bytes() == (resumed / name).read_bytes(), name


def test_training_images_that_objectives_see_are_spread() -> None:
    rows = np.arange(20, 31)
    assert spread(rows, 3).tolist() == [20, 25, 30]
    assert spread(rows, 99).tolist() == rows.tolist()
    assert spread(rows, 1).tolist() == [20]


def encoder_of(path: Path) -> dict[str, torch.Tensor]:
    return load_backbone(path).encoder.state_dict()


EVERY = [*OBJECTIVES.values(), *({"name": name, **settings} for name, settings in PENALISED.items())]


@pytest.mark.parametrize("objective", EVERY, ids=lambda settings: settings["name"])
def test_every_objective_on_a_frozen_backbone_in_mixed_precision(
    tuned: Callable[..., Path], weights: Path, objective: dict[str, Any]
) -> None:
    folder = tuned(
        objective=objective,
        reuse={"name": "none"},
        trainable="head",
        precision="bfloat16",
        accumulate=2,
        augmentation=AUGMENTATION,
    )
    before, after = encoder_of(weights), encoder_of(folder / "model.safetensors")
    for name, value in before.items():  # running statistics of batch normalisation among them
        assert torch.equal(after[name], value), name
    losses = history(folder, "loss")
    assert np.isfinite(losses).all()
    assert len(set(losses)) == 3


def test_frozen_statistics_stay_and_weights_train(tuned: Callable[..., Path], weights: Path) -> None:
    folder = tuned(reuse={"name": "none"}, batch_norm="frozen")
    before, after = encoder_of(weights), encoder_of(folder / "model.safetensors")
    for name, value in before.items():
        statistic = name.endswith(("running_mean", "running_var", "num_batches_tracked"))
        assert torch.equal(after[name], value) is statistic, name


def test_rifle_draws_the_head_anew_at_each_cycle_but_the_first(
    tuned: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two cycles of three epochs with a schedule each, at a rate that leaves the head as it was drawn."""
    heads: list[torch.Tensor] = []
    after_step = FineTuning.after_step

    def spy(self: FineTuning) -> None:
        after_step(self)
        assert self.backbone.head is not None
        heads.append(self.backbone.head.weight.detach().clone())

    monkeypatch.setattr(FineTuning, "after_step", spy)
    options = {
        "objective": {"name": "rifle", "cycles": 2},
        "reuse": {"name": "none"},
        "budget": {"epochs": 6, "iterations": None},
        "optimiser": SGD_STILL,
    }
    folder = tuned(**options)
    assert len(heads) == 18
    changed = [number for number in range(1, 18) if not torch.allclose(heads[number], heads[number - 1])]
    assert changed == [9]
    rates = history(folder, "learning_rate")
    assert rates[3:] == pytest.approx(rates[:3])
    first, heads[:] = heads[-1], []
    tuned("again", **options)
    assert torch.equal(heads[-1], first)


def test_training_on_both_parts_leaves_only_the_test_part_to_predict(
    tuned: Callable[..., Path], target: Any
) -> None:
    folder = tuned(reuse={"name": "none"}, batch_size=3, fit_on=["train", "validation"], predict=["test"])
    assert set(read_table("predictions", folder / "predictions.parquet")["split"].to_pylist()) == {"test"}
    images = read_table("timings", folder / "timings.parquet")["images"].to_pylist()
    assert set(images) == {int((target.split != "test").sum())}


def test_a_part_without_images_is_refused_before_training(tuned: Callable[..., Path]) -> None:
    with pytest.raises(PipelineError, match="no holdout image to evaluate the run on"):
        tuned(reuse={"name": "none"}, predict=["holdout"])


def test_a_run_that_may_diverge_is_judged_by_the_weights_it_began_with(
    tuned: Callable[..., Path], weights: Path
) -> None:
    fatal = {"optimiser": {**SGD_STILL, "learning_rate": 1e30}, "reuse": {"name": "none"}}
    with pytest.raises(PipelineError, match="the loss is"):
        tuned("strict", **fatal)
    folder = tuned("trial", **fatal, may_diverge=True)
    ended, began = load_backbone(folder / "model.safetensors"), load_backbone(weights)
    assert all(
        torch.equal(value, began.encoder.state_dict()[name])
        for name, value in ended.encoder.state_dict().items()
    )
    predictions = read_table("predictions", folder / "predictions.parquet")
    assert np.isfinite(feature_matrix(predictions, "probabilities")).all()


PARTS = {"reuse": {"name": "none"}, "budget": {"epochs": 4, "iterations": None}, "evaluate_every": 3}


def test_a_trial_that_goes_on_ends_as_one_without_a_stop(tuned: Callable[..., Path], tmp_path: Path) -> None:
    """Its history too: the stop leaves no trace."""
    state = tmp_path / "state"
    first = tuned("rung0", state=state, until=0.5, **PARTS)
    assert read_table("history", first / "history.parquet")["epoch"].to_pylist()[-1] == 2
    second, whole = tuned("rung1", state=state, until=1.0, **PARTS), tuned("whole", **PARTS)
    for name in ("history", "predictions", "features"):
        assert read_table(name, second / f"{name}.parquet").equals(
            read_table(name, whole / f"{name}.parquet")
        )
    trained, expected = (load_file(folder / "model.safetensors") for folder in (second, whole))
    assert all(torch.equal(trained[name], value) for name, value in expected.items())
    # Only the second half was trained by the second.
    epochs = read_table("timings", second / "timings.parquet")["seconds"].to_pylist()
    assert epochs[:2] == read_table("timings", first / "timings.parquet")["seconds"].to_pylist()


def test_an_earlier_rung_that_is_trained_again_is_not_taken_from_a_later_one(
    tuned: Callable[..., Path], tmp_path: Path
) -> None:
    state = tmp_path / "state"
    before = (tuned("rung0", state=state, until=0.5, **PARTS) / "predictions.parquet").read_bytes()
    tuned("rung1", state=state, until=1.0, **PARTS)
    assert (tuned("rung0", state=state, until=0.5, **PARTS) / "predictions.parquet").read_bytes() == before


def test_epochs_of_fine_tuning_are_kept(tuned: Callable[..., Path]) -> None:
    whole, part = (
        tuned(name, reuse={"name": "none"}, budget={"epochs": epochs, "iterations": None}, keep_epochs=[2])
        for name, epochs in (("whole", 3), ("part", 2))
    )
    kept = load_file(part / "checkpoints" / "epoch_0002.safetensors")
    model = load_file(part / "model.safetensors")
    assert all(torch.equal(kept[name], value) for name, value in model.items())
    assert [path.name for path in (whole / "checkpoints").iterdir()] == ["epoch_0002.safetensors"]
    assert not (whole / "kept").exists()
    with pytest.raises(PipelineError, match=r"keep_epochs \[9\] lie beyond the 4 epochs of the budget"):
        tuned("late", **PARTS, keep_epochs=[9])


def test_a_share_of_each_unit_is_nested_and_drawn_anew(
    source: Any, reusing: Callable[..., SourceFiles]
) -> None:
    files = reusing(by_class(source), {11, 13})
    whole, half, other, least = (
        selected_images(files, labelled=True, share=share, draw=draw)
        for share, draw in ((1.0, 0), (0.5, 0), (0.5, 1), (0.01, 0))
    )
    sizes = np.unique(whole.units, return_counts=True)[1]
    assert np.unique(half.units, return_counts=True)[1].tolist() == (sizes // 2).tolist()
    assert np.unique(least.units, return_counts=True)[1].tolist() == [1, 1]
    assert set(least.rows) < set(half.rows) < set(whole.rows)
    assert set(other.rows) != set(half.rows)
    assert half.classes.tolist() == whole.classes.tolist()
