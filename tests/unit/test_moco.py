"""MoCo-v2: the loss, the queue, the momentum encoder, and a small training run."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from pipeline.backbones.backbone import Description, build_backbone
from pipeline.backbones.files import load_backbone
from pipeline.engine.randomness import seeded, uniforms
from pipeline.engine.streams import Batch
from pipeline.errors import PipelineError
from pipeline.pretraining.moco_v2 import MoCoV2, build
from pipeline.pretraining.pretrain import pretrain
from pipeline.provenance import Provenance, read_provenance
from pipeline.tables import read_table

ARCHITECTURE = {"name": "small_resnet", "widths": [4, 6], "blocks": 1, "stem_stride": 1}
PREPROCESSING = {"resize": 10, "crop": 10, "mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25]}
METHOD = {"queue": 12, "momentum": 0.9, "temperature": 0.2, "batch_size": 4}


@pytest.fixture
def moco() -> MoCoV2:
    """A learner of 5-dimensional projections whose two encoders differ."""
    projection = {"hidden": None, "dimensions": 5}
    backbone = build_backbone(Description(ARCHITECTURE, PREPROCESSING, projection), seed=0)
    with seeded(0, "learner"):
        learner = build(backbone, METHOD)
    assert isinstance(learner, MoCoV2)
    with torch.no_grad():
        for parameter in learner.key_encoder.parameters():
            parameter.mul_(1.1)
    return learner


def batch(number: int, size: int = 4) -> dict[str, Batch]:
    """Two views of random images."""
    pixels = uniforms(np.arange(2 * size), 300, "images", number).reshape(2, size, 3, 10, 10)
    first, second = torch.from_numpy(pixels * 2 - 1)
    return {"source": Batch(first, torch.full((size,), -1), np.arange(size), size, (second,))}


def embed(backbone: nn.Module, images: torch.Tensor) -> np.ndarray:
    """Unit-length projections of a copy, so that running statistics stay as they are."""
    backbone = copy.deepcopy(backbone)
    with torch.no_grad():
        projections = backbone.projection(backbone.encoder(images)).double().numpy()  # type: ignore[operator]
    return projections / np.linalg.norm(projections, axis=1, keepdims=True)


def test_loss_is_info_nce_against_the_queue(moco: MoCoV2) -> None:
    """-log exp(q.k / T) / (exp(q.k / T) + sum over the queue), by loops."""
    for number in range(3):
        views = batch(number)["source"]
        queries, keys = embed(moco.backbone, views.images), embed(moco.key_encoder, views.views[0])
        queue = moco.queue.double().numpy().copy()
        losses, hits = [], 0
        for query, key in zip(queries, keys, strict=True):
            positive = np.exp(query @ key / 0.2)
            negatives = [np.exp(query @ other / 0.2) for other in queue]
            losses.append(-np.log(positive / (positive + sum(negatives))))
            hits += positive > max(negatives)
        loss, parts = moco.loss(batch(number))
        assert loss.item() == pytest.approx(np.mean(losses), rel=1e-5)
        assert parts["instance_top1"].item() == hits / 4


def test_gradient_reaches_the_query_encoder_only(moco: MoCoV2) -> None:
    loss, _ = moco.loss(batch(0))
    loss.backward()
    assert all(parameter.grad is not None for parameter in moco.backbone.parameters())
    assert all(parameter.grad is None for parameter in moco.key_encoder.parameters())
    assert not any(parameter.requires_grad for parameter in moco.key_encoder.parameters())


def test_queue_holds_the_latest_keys_in_order(moco: MoCoV2) -> None:
    first = moco.queue.clone()
    torch.testing.assert_close(first.norm(dim=1), torch.ones(12))
    keys = []
    for number in range(5):
        keys.append(embed(moco.key_encoder, batch(number)["source"].views[0]))
        moco.loss(batch(number))
        assert moco.position.item() == [4, 8, 0, 4, 8][number]
        if number == 0:
            assert torch.equal(moco.queue[4:], first[4:])
    # Batches 3 and 4 have taken the places of 0 and 1.
    np.testing.assert_allclose(moco.queue, np.concatenate([keys[3], keys[4], keys[2]]), atol=1e-5)


def test_smaller_last_batch_wraps_around_the_queue(moco: MoCoV2) -> None:
    sizes = [4, 3, 4, 3]
    keys = []
    for number, size in enumerate(sizes):
        keys.append(embed(moco.key_encoder, batch(number, size)["source"].views[0]))
        moco.loss(batch(number, size))
    latest = np.concatenate(keys)
    assert moco.position.item() == 14 % 12
    expected = np.concatenate([latest[12:], latest[2:12]])
    np.testing.assert_allclose(moco.queue, expected, atol=1e-5)


def test_momentum_moves_the_key_encoder(moco: MoCoV2) -> None:
    before = copy.deepcopy(moco)
    moco.after_step()
    pairs = zip(
        moco.key_encoder.parameters(),
        before.key_encoder.parameters(),
        before.backbone.parameters(),
        strict=True,
    )
    for found, key, query in pairs:
        torch.testing.assert_close(found, 0.9 * key + 0.1 * query)
    for found, query in zip(moco.backbone.parameters(), before.backbone.parameters(), strict=True):
        assert torch.equal(found, query)


def test_logits_stay_exact_under_autocast(moco: MoCoV2) -> None:
    """Same projections, so that all that autocast could spoil is the product with the queue."""
    exact = copy.deepcopy(moco)
    embeddings = nn.functional.normalize(
        torch.from_numpy(uniforms(np.arange(8), 5, "embeddings") - 0.5), dim=1
    )
    queue = nn.functional.normalize(torch.from_numpy(uniforms(np.arange(12), 5, "queue") - 0.5), dim=1)
    for learner in (moco, exact):
        learner.queue.copy_(queue)
        answers = iter([embeddings[:4], embeddings[4:]])
        learner._embed = lambda backbone, images, answers=answers: next(answers)  # type: ignore[method-assign,misc]
    expected, _ = exact.loss(batch(0))
    with torch.autocast("cpu", torch.bfloat16):
        found, _ = moco.loss(batch(0))
    assert found.item() == pytest.approx(expected.item(), rel=1e-6)


@pytest.mark.parametrize("queue", [10, 2, 13])
def test_queue_must_be_a_multiple_of_the_batch(queue: int) -> None:
    description = Description(ARCHITECTURE, PREPROCESSING, {"hidden": None, "dimensions": 5})
    message = rf"method\.queue {queue} must be a multiple of batch_size 4"
    with pytest.raises(PipelineError, match=message):
        build(build_backbone(description, seed=0), METHOD | {"queue": queue})


# The whole step


@pytest.mark.usefixtures("torch_as_before")
def test_pretrains_and_keeps_epochs(
    tmp_path: Path, make_dataset: Callable[..., Any], training: Callable[..., Any], record: Provenance
) -> None:
    """With every kind of augmentation, while PyTorch refuses what is not deterministic."""
    dataset = make_dataset(tmp_path, labelled=False)
    augmentation = {
        "resized_crop": [0.2, 1.0],
        "padding": 0,
        "fill": 0,
        "flip": True,
        "colour_jitter": 0.4,
        "grey": 0.2,
        "blur": 0.5,
    }
    settings = {
        "architecture": ARCHITECTURE,
        "preprocessing": PREPROCESSING,
        "keep_epochs": [1, 3],
        "seed": 0,
        "method": training(
            name="moco_v2",
            projection={"hidden": 7, "dimensions": 5},
            queue=16,
            momentum=0.9,
            temperature=0.2,
            augmentation=augmentation,
        ),
    }
    pretrain(dataset.manifest, dataset.images, tmp_path / "out", settings, record)
    files = sorted(path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*.*"))
    assert files == [
        "checkpoints/epoch_0001.safetensors",
        "checkpoints/epoch_0003.safetensors",
        "distances.parquet",
        "history.parquet",
        "timings.parquet",
        "weights.safetensors",
    ]
    final, kept = tmp_path / "out/weights.safetensors", tmp_path / "out/checkpoints"
    weights, first, last = (
        load_file(path) for path in (final, kept / "epoch_0001.safetensors", kept / "epoch_0003.safetensors")
    )
    assert all(torch.equal(weights[name], last[name]) for name in weights)
    assert not torch.equal(weights["encoder.stem.weight"], first["encoder.stem.weight"])
    # Two kept epochs are not taken for the same file.
    records = [read_provenance(path) for path in (final, *sorted(kept.iterdir()))]
    assert len({record.digest() for record in records if record}) == 3
    backbone = load_backbone(final).eval()
    assert backbone.features(torch.zeros(2, 3, 10, 10), "projection").shape == (2, 5)
    history = read_table("history", tmp_path / "out/history.parquet").to_pylist()
    assert {row["metric"] for row in history} == {"loss", "instance_top1", "learning_rate"}
    settings["keep_epochs"] = [2, 4]
    with pytest.raises(PipelineError, match=r"keep_epochs \[4\] lie beyond the 3 epochs of the budget"):
        pretrain(dataset.manifest, dataset.images, tmp_path / "other", settings, record)
