"""The estimate of jobs and GPU hours: against hand calculations, published FLOPs and what was measured."""

import copy
from pathlib import Path
from typing import Any

import pyarrow.compute as compute
import pyarrow.parquet as parquet
import pytest
from pydantic import TypeAdapter
from torchvision import models

from pipeline.config.backbones import AnyBackbone
from pipeline.config.datasets import AnyDataset
from pipeline.config.loading import load_config
from pipeline.config.model import Config
from pipeline.config.resolve import Resolver
from pipeline.errors import PipelineError
from pipeline.estimate.arithmetic import forward_flops
from pipeline.estimate.costs import costs
from pipeline.estimate.estimate import table
from pipeline.estimate.images import Count, count_images
from pipeline.estimate.jobs import Job, gpu_jobs, jobs_after_rankings, trained_images
from pipeline.provenance import Provenance
from pipeline.tables import write_table

ROOT = Path(__file__).parents[2]
CONFIG: dict[str, Any] = {
    "datasets": {
        "source": {"format": "torchvision", "name": "CIFAR100", "shards": 4},
        "target": {"format": "torchvision", "name": "CIFAR10"},
    },
    "backbones": {
        "moco": {
            "origin": "pretraining",
            "dataset": "source",
            "architecture": {"name": "small_resnet"},
            "preprocessing": {"resize": 28, "crop": 28},
            "method": {"name": "moco_v2", "budget": {"epochs": 5}, "batch_size": 64},
        }
    },
    "selections": {"random": {"method": "random", "units": {"by": "cluster", "clusters": 9}, "count": 2}},
    "recipes": {
        "plain": {
            "budget": {"epochs": 10},
            "batch_size": 32,
            "fit_on": "train+validation",
            "search": {"grid": {"optimiser.learning_rate": [0.1, 0.01, 0.001]}},
        },
        "coin": {
            "budget": {"epochs": 10},
            "batch_size": 32,
            "initialise": {"name": "coin", "share": 0.3},
        },
        "pseudo": {
            "budget": {"iterations": 25},
            "batch_size": 32,
            "reuse": {"name": "pseudo_labelled", "batch_size": 64},
            "take": {"recipe": "plain", "keys": ["optimiser.learning_rate"]},
        },
    },
    "experiments": [
        {
            "name": "all kinds",
            "backbones": ["moco"],
            "targets": ["target"],
            "selections": ["random"],
            "recipes": ["plain", "coin", "pseudo"],
            "seeds": [0, 1],
        }
    ],
}
COUNTS = {
    "source": Count({"train": 640, "validation": 0, "test": 60}, "made up"),
    "target": Count({"train": 100, "validation": 20, "test": 50}, "made up"),
}
KINDS = [
    *("pre-training", "feature extraction", "initialisation", "trials of searches", "fine-tuning"),
    "weight interpolation",
]


@pytest.fixture(scope="module")
def config() -> Config:
    return load_config(CONFIG)


@pytest.fixture(scope="module")
def jobs(config: Config) -> list[Job]:
    return gpu_jobs(Resolver(config), COUNTS.get)


def dataset(**entry: Any) -> Any:
    return TypeAdapter(AnyDataset).validate_python(entry)


@pytest.mark.parametrize("model", ["resnet18", "resnet50"])
def test_flops_are_those_that_torchvision_publishes(model: str) -> None:
    weights = models.get_model_weights(model)["IMAGENET1K_V1"]
    name = f"{type(weights).__name__}.IMAGENET1K_V1"
    entry: Any = TypeAdapter(AnyBackbone).validate_python({"origin": "torchvision", "weights": name})
    # `_ops` are billions of multiply-adds, the classification layer's 0.002 among them.
    assert forward_flops(entry) / 2e9 == pytest.approx(weights.meta["_ops"], abs=0.003)


def test_flops_of_a_small_network_by_hand(config: Config) -> None:
    # Stem 3 -> 16 to 14 x 14; blocks at 16 (14 x 14), 32 (7 x 7, with a 1 x 1 shortcut), 64 (4 x 4).
    stem = 14 * 14 * 16 * 3 * 9
    first = 14 * 14 * 16 * (16 + 16) * 9
    second = 7 * 7 * 32 * ((16 + 32) * 9 + 16)
    third = 4 * 4 * 64 * ((32 + 64) * 9 + 32)
    assert forward_flops(config.backbones["moco"]) == 2 * (stem + first + second + third)


@pytest.mark.parametrize(
    ("budget", "count", "accumulate", "share", "images", "batches"),
    [
        ({"epochs": 10, "iterations": None}, 100, 1, (0, 1), 1000, 40),
        ({"epochs": 10, "iterations": None}, 97, 1, (0, 1), 960, 30),  # a last batch of one is left out
        ({"epochs": 10, "iterations": None}, 100, 1, (0.3, 1), 700, 28),
        ({"epochs": None, "iterations": 9}, 100, 1, (0, 1), 2 * 100 + 32, 9),
        ({"epochs": None, "iterations": 3}, 100, 2, (0, 1), 100 + 2 * 32, 6),
    ],
)
def test_training_images_by_hand(
    budget: dict[str, Any], count: int, accumulate: int, share: tuple[float, float], images: int, batches: int
) -> None:
    training = {"budget": budget, "batch_size": 32, "accumulate": accumulate}
    assert trained_images(training, count, share) == (images, batches)


def test_rungs_of_a_search_train_what_the_ones_before_did_not() -> None:
    changed = copy.deepcopy(CONFIG)
    search = changed["recipes"]["plain"]["search"]
    search["grid"]["optimiser.learning_rate"] = [0.1, 0.01, 0.001, 0.0001]
    search["halving"] = {"first": 0.25, "factor": 2}
    resolver = Resolver(load_config(changed))
    trials = [job for job in gpu_jobs(resolver, COUNTS.get) if job.kind == "trials of searches"]
    # Of ten epochs of 100 images: four trials up to the end of the third, two up to the fifth.
    assert [job.images for job in trials] == 4 * [300] + 2 * [200]
    folder = "searches/moco/target/none/plain"
    assert [job.folder for job in trials[:4]] == [
        f"{folder}/{name}/rung0" for name in resolver.trials("plain")
    ]
    assert jobs_after_rankings(resolver) == 2


def test_domain_gaps_count_both_sides_at_each_epoch() -> None:
    changed = copy.deepcopy(CONFIG)
    changed["experiments"][0]["domain_gap"] = {"batch_size": 12, "batches": 4}
    changed["recipes"]["coin"]["keep_epochs"] = [5, 7]
    changed["datasets"]["target"]["classes"] = 10
    jobs = gpu_jobs(Resolver(load_config(changed)), COUNTS.get)
    # 48 of 50 test images and 4 * 12 source images in two views, at the start, kept epochs and the end;
    # at the start a head is fitted on all 100 training images.
    gaps = [job for job in jobs if job.kind == "domain gap"]
    assert [job.images for job in gaps] == [times * (48 + 96) + 100 for times in (2, 2, 4, 4, 2, 2)]
    assert [job.forwards for job in gaps] == [times * 3 * (48 + 96) + 100 for times in (2, 2, 4, 4, 2, 2)]


def test_heads_for_domain_gaps_are_fitted_on_some_images_of_each_class() -> None:
    changed = copy.deepcopy(CONFIG)
    changed["datasets"]["source"]["classes"] = 100
    changed["datasets"]["target"]["classes"] = 10
    changed["selections"]["random"] = {"method": "random", "count": 7}
    changed["recipes"]["pseudo"]["reuse"] = {"name": "labelled"}
    changed["experiments"][0]["domain_gap"] = {"batch_size": 12, "batches": 4, "head_images": 3}
    jobs = gpu_jobs(Resolver(load_config(changed)), COUNTS.get)
    # Of 7 source classes at both times, of 10 target classes at the start.
    gaps = [job.images for job in jobs if job.kind == "domain gap"]
    assert gaps == 6 * [2 * (48 + 48 + 7 * 3) + 10 * 3]


def test_every_kind_of_job_counts_its_images_and_forward_passes(jobs: list[Job]) -> None:
    found = {
        kind: [(job.dataset, job.images, job.forwards) for job in jobs if job.kind == kind] for kind in KINDS
    }
    # Two views, one trained (3) and one passed forward for its key (1).
    assert found["pre-training"] == [("source", 5 * 640 * 2, 5 * 640 * 4)]
    assert found["feature extraction"] == [("source", 175, 175)] * 4 + [("target", 170, 170)]
    assert found["initialisation"] == [("target", 300, 900)] * 2
    assert found["trials of searches"] == [("target", 1000, 3000)] * 3
    plain, coin = ("target", 1200, 3600), ("target", 700, 2100)
    # 25 iterations: six epochs of four batches, and one batch of 32; 64 source images in two views each.
    images = 6 * 100 + 32 + 25 * 64 * 2
    assert found["fine-tuning"] == [plain] * 2 + [coin] * 2 + [("target", images, 3 * images)] * 2
    # Of the 50 test images: three mixtures, both ends, and the best mixture again.
    assert found["weight interpolation"] == [("target", 6 * 50, 6 * 50)] * 2


def test_a_stage_that_trains_nothing_is_a_job_without_images() -> None:
    changed = copy.deepcopy(CONFIG)
    changed["recipes"]["coin"]["initialise"] = {"name": "noisy_tune"}
    jobs = gpu_jobs(Resolver(load_config(changed)), COUNTS.get)
    found = [(job.images, job.forwards) for job in jobs if job.kind == "initialisation"]
    assert found == [(0, 0)] * 2


def test_floors_need_features_of_targets_that_no_selection_reads() -> None:
    changed = copy.deepcopy(CONFIG)
    changed["experiments"][0] |= {"recipes": ["coin"], "selections": []}
    jobs = gpu_jobs(Resolver(load_config(changed)), COUNTS.get)
    found = [(job.kind, job.dataset, job.images) for job in jobs if "feature" in job.kind]
    assert found == [("feature extraction", "target", 170)]
    changed["backbones"]["moco"]["feature_layer"] = "projection"
    jobs = gpu_jobs(Resolver(load_config(changed)), COUNTS.get)
    found = [(job.kind, job.dataset, job.images) for job in jobs if "feature" in job.kind]
    assert found == [("features for floors", "target", 170)]
    changed["floors"] = {"enabled": False}
    jobs = gpu_jobs(Resolver(load_config(changed)), COUNTS.get)
    assert not [job for job in jobs if "feature" in job.kind]


@pytest.mark.parametrize(
    ("entry", "train", "validation", "test"),
    [
        ({"name": "cub200"}, 5395, 599, 5794),  # a tenth of 5,994 for validation
        ({"name": "aircraft"}, 3334, 3333, 3333),  # official
        ({"name": "imagenet"}, 1_281_167, 50_000, 0),
        ({"name": "caltech101"}, 2727, 303, 8677 - 3030),  # 30 of each class drawn to train on
        ({"name": "dtd", "counts": "core_tuning"}, 1880, 1880, 1880),
        ({"name": "caltech101", "subset": {"by": "share", "share": 0.2}}, 545, 61, 5647),  # 6 of 30
        ({"name": "caltech101", "subset": {"by": "number", "per_class": 5}}, 505, 303, 5647),
        ({"name": "pets", "split": {"validation": 0}}, 3680, 0, 3669),
    ],
)
def test_published_counts(
    tmp_path: Path, entry: dict[str, Any], train: int, validation: int, test: int
) -> None:
    found = count_images("set", dataset(format="published", **entry), tmp_path)
    assert found is not None
    assert found.parts == {"train": train, "validation": validation, "test": test}


@pytest.mark.parametrize(
    ("entry", "train", "validation"),
    [
        ({}, 50_000, 0),
        ({"split": {"validation": 0.1}}, 45_000, 5_000),  # the official 10,000 stay the test part
        ({"split": {"validation": 0.1}, "subset": {"by": "share", "share": 0.25}}, 11_250, 1_250),
    ],
)
def test_counts_of_cifar(tmp_path: Path, entry: dict[str, Any], train: int, validation: int) -> None:
    found = count_images("set", dataset(format="torchvision", name="CIFAR10", **entry), tmp_path)
    assert found is not None
    assert found.parts == {"train": train, "validation": validation, "test": 10_000}


def test_a_long_tail_keeps_what_its_profile_says(tmp_path: Path) -> None:
    entry = dataset(format="published", name="caltech101", subset={"by": "long_tail", "ratio": 10})
    found = count_images("caltech", entry, tmp_path)
    assert found is not None
    # 30 images of the largest of 101 classes, 3 of the smallest, exponential between (reference [43]).
    expected = sum(int(30 * 10 ** (-place / 100) + 1e-9) for place in range(101))
    assert found.of(["train", "validation"]) == expected


def test_local_files_are_listed_as_the_step_would(tmp_path: Path) -> None:
    path = ROOT / "data" / "quickdraw.parquet"
    entry = dataset(format="parquet", path=str(path), where={"part": ["target"]})
    found = count_images("animals", entry, tmp_path)
    rows = parquet.read_table(path, columns=["part", "split"])
    splits = rows.filter(compute.equal(rows["part"].cast("string"), "target"))["split"].to_pylist()
    assert found is not None
    assert found.parts == {part: splits.count(part) for part in ("train", "validation", "test")}
    assert found.of(["train", "validation", "test"]) == len(splits) > 0


def test_a_manifest_of_the_same_entry_comes_first(tmp_path: Path, make_dataset: Any, record: Any) -> None:
    entry = dataset(format="torchvision", name="EuroSAT")
    assert count_images("made", entry, tmp_path) is None
    folder = tmp_path / "datasets" / "made"
    folder.mkdir(parents=True)
    made = make_dataset(folder, classes=3, parts=(8, 3, 2))
    assert count_images("made", entry, tmp_path) is None  # made with other settings
    whole = parquet.read_table(made.manifest)
    settings = {k: v for k, v in entry.plain().items() if k not in ("root", "metric", "shards", "concepts")}
    told = Provenance("pipeline.datasets", {**settings, "content": "1"}, "code=0", {}, {})
    write_table("manifest", made.manifest, whole, told)
    found = count_images("made", entry, tmp_path)
    assert found == Count({"train": 24, "validation": 9, "test": 6}, "manifest")


def test_hours_follow_from_flops(jobs: list[Job], tmp_path: Path) -> None:
    found = costs(jobs, lambda _: 5 * 10**9, 2.0, tmp_path)
    assert {cost.basis for cost in found} == {"estimated"}
    assert [cost.seconds for cost in found] == pytest.approx([job.forwards * 5e9 / 2e12 for job in jobs])
    lines = table(jobs, found)
    assert [line.split("  ")[0] for line in lines] == ["GPU jobs", *KINDS, "total"]
    hours = sum(job.forwards for job in jobs) * 5e9 / 2e12 / 3600
    assert lines[-1].split() == [
        "total",
        "19",
        f"{sum(job.images for job in jobs):,.0f}",
        f"{hours:.3f}",
        "estimated",
    ]


def write_timings(job: Job, results: Path, seconds: list[float], **changes: Any) -> None:
    """The timings of a finished job, an epoch a row."""
    (results / job.folder).mkdir(parents=True)
    columns = {
        "stage": ["finetuning"] * len(seconds),
        "epoch": list(range(1, len(seconds) + 1)),
        "images": [120] * len(seconds),
        "seconds": seconds,
        "device": ["some card"] * len(seconds),
    }
    record = Provenance("pipeline.finetuning", {**job.settings, **changes}, "code=0", {}, {})
    write_table("timings", results / job.folder / "timings.parquet", columns, record)


def test_measured_seconds_replace_the_estimate(jobs: list[Job], tmp_path: Path) -> None:
    plain, twin, coin, other, *pseudo = (job for job in jobs if job.kind == "fine-tuning")
    # What the search chose is in the record, not in the config.
    chosen = {**plain.settings["optimiser"], "learning_rate": 0.001}
    write_timings(plain, tmp_path, [1800.0, 1800.0], optimiser=chosen)
    write_timings(coin, tmp_path, [1.0], batch_size=7)  # of settings that have changed since
    found = costs(jobs, lambda _: 10**9, 1.0, tmp_path)
    of = {job.folder: cost for job, cost in zip(jobs, found, strict=True) if job.folder}
    assert of[plain.folder] == (3600.0, "measured", ("some card",))
    for job in (twin, coin, other, *pseudo):
        assert of[job.folder].basis == "extrapolated"
        assert of[job.folder].seconds == pytest.approx(3600.0 * job.forwards / 3600)
    assert {cost.basis for job, cost in zip(jobs, found, strict=True) if job.kind != "fine-tuning"} == {
        "estimated"
    }
    lines = [line.split() for line in table(jobs, found)]
    assert ["fine-tuning", "1", "1,200", "1.000", "measured"] in lines
    assert lines[-1][-3:] == ["measured,", "extrapolated,", "estimated"]


def test_unknown_numbers_of_images_make_hours_unknown(config: Config, tmp_path: Path) -> None:
    jobs = gpu_jobs(Resolver(config), {"source": COUNTS["source"]}.get)
    lines = [line.split() for line in table(jobs, costs(jobs, lambda _: 10**9, 1.0, tmp_path))]
    assert ["fine-tuning", "6", "unknown", "unknown", "unknown"] in lines
    assert lines[-1] == ["total", "19", "unknown", "unknown", "estimated,", "unknown"]
    assert lines[1][:2] == ["pre-training", "1"]
    assert lines[1][-1] == "estimated"


def test_weights_that_do_not_exist_are_named() -> None:
    entry: Any = TypeAdapter(AnyBackbone).validate_python(
        {"origin": "torchvision", "weights": "ResNet18_Weights.IMAGENET1K_V9"}
    )
    with pytest.raises(PipelineError, match=r"ResNet18_Weights\.IMAGENET1K_V1"):
        forward_flops(entry)
