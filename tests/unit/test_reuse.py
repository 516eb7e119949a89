"""Views of reused source images: RandAugment beside torchvision's own, and numbers per image."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torchvision.transforms import v2

from pipeline.engine.augmentation import DRAWS
from pipeline.engine.randomness import uniforms
from pipeline.engine.strong import OPERATIONS, StrongAugmentation, rand_augment
from pipeline.reuse import labelled, pseudo_labelled

NAMES = list(OPERATIONS)
COLOURS = [NAMES.index(name) for name in ("brightness", "colour", "contrast", "sharpness")]
PLAIN = {"crop": 12, "mean": [0.0, 0.0, 0.0], "std": [1.0, 1.0, 1.0]}
SETTINGS = {"operations": 2, "magnitude": 9}


@pytest.fixture(scope="module")
def pixels() -> torch.Tensor:
    """Five smooth images of different ranges, uint8 (5, 3, 24, 24)."""
    coarse = torch.from_numpy(np.random.default_rng(0).uniform(0, 255, (5, 3, 6, 6)))
    smooth = torch.nn.functional.interpolate(coarse, size=24, mode="bilinear")
    return (smooth * torch.linspace(0.4, 1, 5, dtype=torch.float64)[:, None, None, None]).to(torch.uint8)


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    """As a stream reads them, uint8 (6, 12, 12, 3)."""
    return torch.from_numpy(np.random.default_rng(1).integers(0, 256, (6, 12, 12, 3), dtype=np.uint8))


def numbers(name: str, negative: bool, count: int) -> torch.Tensor:
    """Draws that choose this operation and sign for every image."""
    choice = (NAMES.index(name) + 0.5) / len(NAMES)
    return torch.tensor([[choice, 0.25 if negative else 0.75]]).repeat(count, 1)


@pytest.mark.parametrize("negative", [False, True])
@pytest.mark.parametrize("magnitude", [0, 4, 9, 17, 30])
@pytest.mark.parametrize("number", range(14), ids=NAMES)
def test_operations_are_torchvisions(
    pixels: torch.Tensor, monkeypatch: pytest.MonkeyPatch, number: int, magnitude: int, negative: bool
) -> None:
    kept = v2.RandAugment(num_ops=1, magnitude=magnitude, fill=127)
    # It draws the operation by `randint` and the sign by `rand`; ours stand in the same order.
    monkeypatch.setattr(torch, "randint", lambda *_: torch.tensor(number))
    monkeypatch.setattr(torch, "rand", lambda *_: torch.tensor(0.25 if negative else 0.75))
    expected = kept(pixels)
    found = rand_augment(pixels, numbers(NAMES[number], negative, 5), magnitude, 127)
    assert found.dtype == torch.uint8
    # Strengths are held in other precisions, which now and then moves a colour by one level.
    levels = (found.int() - expected.int()).abs()
    assert levels.max() <= (number in COLOURS)
    assert (levels > 0).float().mean() < 0.01
    if NAMES[number] not in ("identity", "autocontrast", "equalize") and magnitude == 30:
        assert not torch.equal(found, pixels)


def test_every_operation_is_as_likely() -> None:
    draws = uniforms(np.arange(14_000), 2, 0, "test")
    chosen = (torch.from_numpy(draws)[:, 0] * len(OPERATIONS)).long()
    assert stats.chisquare(torch.bincount(chosen, minlength=14).numpy()).pvalue > 1e-3


def test_operations_follow_each_other(images: torch.Tensor, training: Callable[..., dict[str, Any]]) -> None:
    settings = training()["augmentation"] | {"fill": 200}
    strong = StrongAugmentation(settings, PLAIN, **SETTINGS)
    assert strong.draws == DRAWS + 4
    first, second = numbers("rotate", True, 6), numbers("solarize", False, 6)
    draws = torch.cat([torch.full((6, DRAWS), 0.5), first, second], 1).numpy()
    plain = images.permute(0, 3, 1, 2)
    expected = rand_augment(rand_augment(plain, first, 9, 200), second, 9, 200)
    torch.testing.assert_close(strong(images, draws) * 255, expected.float(), atol=1e-3, rtol=0)
    untouched = torch.cat([torch.full((6, DRAWS), 0.5), *[numbers("identity", True, 6)] * 2], 1)
    torch.testing.assert_close(strong(images, untouched.numpy()), plain / 255, atol=1e-6, rtol=0)


def test_strong_view_of_an_image_does_not_depend_on_its_batch(
    images: torch.Tensor, training: Callable[..., dict[str, Any]]
) -> None:
    settings = training()["augmentation"] | {"resized_crop": (0.3, 1.0), "flip": True}
    strong = StrongAugmentation(settings, PLAIN, 3, 20)
    draws = uniforms(np.arange(6), strong.draws, 3, "test")
    whole = strong(images, draws)
    for rows in ([0], [4, 1], [5, 3, 2]):
        assert torch.equal(strong(images[rows], draws[rows]), whole[rows])


def test_views_of_each_kind(images: torch.Tensor, training: Callable[..., dict[str, Any]]) -> None:
    augmentation = training()["augmentation"]
    (single,) = labelled.augmentations({}, augmentation, PLAIN)
    weak, strong = pseudo_labelled.augmentations(SETTINGS, augmentation, PLAIN)
    draws = uniforms(np.arange(6), strong.draws, 0, "test")
    assert torch.equal(weak(images, draws[:, :DRAWS]), single(images, draws[:, :DRAWS]))
    assert not torch.equal(strong(images, draws), weak(images, draws[:, :DRAWS]))
    assert (labelled.LABELLED, pseudo_labelled.LABELLED) == (True, False)
    assert (labelled.VIEWS, pseudo_labelled.VIEWS) == (1, 2)
