"""S_Dbw against numbers computed outside this project, and where it has none."""

import time
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline import s_dbw as module
from pipeline.s_dbw import UndefinedError, s_dbw, s_dbw_of_tong

DATA = ("low2d", "overlap4d", "high64d")
SIGMA = {"var": "variance", "std": "deviation"}
# Of the package that COIN calls; the other two indices in it nothing here computes.
PACKAGE = {"nearest1": "nearest", "nearest0": "mean"}


@pytest.fixture(scope="module")
def reference(shared_data: Path) -> Any:
    return np.load(shared_data / "reference_values" / "s_dbw.npz", allow_pickle=False)


@pytest.mark.parametrize("centre", ["mean", "nearest"])
@pytest.mark.parametrize("counted", ["union", "own"])
@pytest.mark.parametrize("sigma", SIGMA)
@pytest.mark.parametrize("data", DATA)
def test_every_variant_equals_the_reference(
    data: str, sigma: str, counted: Any, centre: Any, reference: Any
) -> None:
    features, labels = reference[f"{data}_X"], reference[f"{data}_y"]
    spread: Any = SIGMA[sigma]
    found = s_dbw(features, labels, spread, counted, centre)
    expected = {
        name: reference[f"{data}_ref_{sigma}_{counted}_{centre}_{name}"]
        for name in ("Scat", "Dens_bw", "S_Dbw", "stdev", "zero_denominators", "own_density")
    }
    assert found.scat == pytest.approx(expected["Scat"], rel=1e-12)
    assert found.dens_bw == pytest.approx(expected["Dens_bw"], rel=1e-12)
    assert found.value == pytest.approx(expected["S_Dbw"], rel=1e-12)
    assert found.radius == pytest.approx(expected["stdev"], rel=1e-12)
    assert found.empty == expected["zero_denominators"]
    assert found.densities.tolist() == expected["own_density"].tolist()
    if (sigma, counted, centre) == ("var", "union", "mean"):
        assert s_dbw(features, labels)[:3] == found[:3]


@pytest.mark.parametrize("data", DATA)
@pytest.mark.parametrize("nearest", PACKAGE)
def test_the_package_calls_another_variant_halkidi(data: str, nearest: str, reference: Any) -> None:
    features, labels = reference[f"{data}_X"], reference[f"{data}_y"]
    centre: Any = PACKAGE[nearest]
    found = s_dbw(features, labels, "deviation", "own", centre)
    expected = reference[f"{data}_pkg_Halkidi_{nearest}"]
    assert found.scat == pytest.approx(reference[f"{data}_pkg_Halkidi_Scat"], rel=1e-12)
    if expected == -1:  # It gives up where two centres have no feature near.
        assert (found.densities == 0).sum() >= 2
        return
    assert found.value == pytest.approx(expected, rel=1e-12)
    assert found.dens_bw == pytest.approx(reference[f"{data}_pkg_Halkidi_{nearest}_Dens_bw"], rel=1e-12)


@pytest.mark.parametrize("pairs", [100_000, 7])
@pytest.mark.parametrize("data", DATA)
def test_that_of_tong_equals_what_the_code_of_coin_computes(
    data: str, pairs: int, reference: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PAIRS", pairs)
    found = s_dbw_of_tong(reference[f"{data}_X"], reference[f"{data}_y"])
    assert found.value == pytest.approx(reference[f"{data}_coin_call"], rel=1e-12)
    assert found.value == pytest.approx(reference[f"{data}_pkg_Tong_nearest1"], rel=1e-12)
    assert found.scat == pytest.approx(reference[f"{data}_tong_ref_Scat"], rel=1e-12)
    assert found.scat == pytest.approx(reference[f"{data}_pkg_Tong_Scat"], rel=1e-12)
    assert found.dens_bw == pytest.approx(reference[f"{data}_tong_ref_Dens_bw"], rel=1e-12)
    assert found.dens_bw == pytest.approx(reference[f"{data}_pkg_Tong_nearest1_Dens_bw"], rel=1e-12)
    assert found.densities.tolist() == reference[f"{data}_tong_ref_density"].tolist()
    assert (found.radius, found.empty) == (None, 0)


def test_classes_of_unequal_size_by_loops() -> None:
    """What the reference has of the index of Tong is zero density but once; here none is."""
    random = np.random.default_rng(3)
    labels = np.repeat([4, 0, 9], [40, 25, 60])
    features = random.normal(size=(3, 2))[labels % 3] * 0.5 + random.normal(0, 0.6, (125, 2))
    members = [features[labels == label] for label in (0, 4, 9)]
    centres = [part[np.linalg.norm(part - part.mean(0), axis=1).argmin()] for part in members]

    def density(centre: np.ndarray, sigma: np.ndarray, *parts: np.ndarray) -> int:
        inside = np.abs(np.concatenate(parts) - centre) <= 1.96 * sigma / np.sqrt(sum(map(len, parts)))
        return int(inside.all(axis=1).sum())

    own = [density(c, part.std(0), part) for c, part in zip(centres, members, strict=True)]
    total = 0.0
    for i, j in [(0, 1), (0, 2), (1, 2)]:
        n, m = len(members[i]), len(members[j])
        middle = 0.7 * (m * centres[i] + n * centres[j]) / (n + m)
        middle += 0.3 * (own[i] * centres[i] + own[j] * centres[j]) / (own[i] + own[j])
        sigma = (members[i].std(0) + members[j].std(0)) / 2
        total += 2 * density(middle, sigma, members[i], members[j]) / max(own[i], own[j])
    found = s_dbw_of_tong(features.astype(np.float32), labels)
    assert found.densities.tolist() == own
    assert total > 0
    assert found.dens_bw == pytest.approx(total / 6)


def test_classes_in_points_of_their_own_are_apart() -> None:
    """One image a class has no spread; the definition's own value is zero."""
    labels = np.repeat(np.arange(3), 2)
    for index in (s_dbw, s_dbw_of_tong):
        for features, classes in ((np.eye(3)[labels], labels), (np.eye(3), np.arange(3))):
            found = index(features, classes)
            assert (found.value, found.empty) == (0.0, 0)


def test_class_of_one_image_among_others() -> None:
    features = np.array([[0.0], [1.0], [10.0]])
    variance = (0**2 + 1 + 10**2) / 3 - (11 / 3) ** 2
    found = s_dbw(features, np.array([0, 0, 1]))
    assert found.scat == pytest.approx(0.25 / 2 / variance)


@pytest.mark.parametrize("index", [s_dbw, s_dbw_of_tong])
def test_no_index_of_one_class_or_of_one_point(index: Any) -> None:
    with pytest.raises(UndefinedError, match="fewer than two classes"):
        index(np.eye(3), np.zeros(3, int))
    with pytest.raises(UndefinedError, match="all features are equal"):
        index(np.ones((4, 3), np.float32), np.array([0, 0, 1, 1]))


def test_a_test_part_of_full_size_takes_seconds_and_little_memory() -> None:
    random = np.random.default_rng(0)
    labels = np.repeat(np.arange(100), 100)
    features = np.maximum(random.standard_normal((10_000, 2048), np.float32), 0)
    features += random.normal(size=(100, 2048)).astype(np.float32)[labels] / 4
    for index in (s_dbw, s_dbw_of_tong):
        tracemalloc.start()
        started = time.process_time()
        found = index(features, labels)
        seconds, (_, most) = time.process_time() - started, tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert np.isfinite(found.value)
        assert seconds < 20
        assert most < features.nbytes
