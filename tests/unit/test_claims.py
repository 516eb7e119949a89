"""Claims about runs: intervals over draws and test images, Holm's correction, answers."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from scipy import stats

from pipeline.claims.answer import answer_all, answer_of, holm_levels, holm_p_values, write
from pipeline.claims.intervals import Resampled, estimate, standard_error, two_way_deviations
from pipeline.claims.outcomes import Outcomes, RunKeys, halving_weights
from pipeline.claims.text import claims_text
from pipeline.claims.values import Values
from pipeline.errors import PipelineError
from pipeline.tables import read_table, write_table


def outcomes(seed: int, draws: int = 12, images: int = 80) -> np.ndarray:
    """Differences in {-1, 0, 1} with effects of draws and of images."""
    random = np.random.default_rng(seed)
    chance = random.normal(0, 0.1, (draws, 1)) + random.normal(0, 0.3, (1, images))
    better, baseline = random.random((2, draws, images)) < 0.5 + np.array([0.1 + chance, chance]) / 2
    return better.astype(float) - baseline


def crossed(random: np.random.Generator, draws: int, images: int, spreads: tuple[float, ...]) -> np.ndarray:
    """A made-up claim of known mean 0: effects of draws and images, and noise of each cell."""
    of_draw, of_image, of_cell = spreads
    return (
        random.normal(0, of_draw, (draws, 1))
        + random.normal(0, of_image, (1, images))
        + random.normal(0, of_cell, (draws, images))
    )


def test_one_way_resampling_is_scipys() -> None:
    values = np.random.default_rng(0).gamma(1.0, size=25)
    ours = np.sort(two_way_deviations(np.column_stack([values] * 3), np.random.default_rng(1), 20_000))
    scipys = stats.bootstrap(
        (values,), np.mean, n_resamples=20_000, method="percentile", random_state=np.random.default_rng(2)
    )
    assert ours.std(ddof=1) == pytest.approx(scipys.standard_error, rel=0.02)
    interval = values.mean() + np.quantile(ours, [0.025, 0.975])
    # A quantile of 20,000 resamples has a standard error below 2 % of their spread.
    assert interval == pytest.approx(tuple(scipys.confidence_interval), abs=0.06 * scipys.standard_error)


@pytest.mark.parametrize("draws", [3, 10, 40])
def test_without_noise_of_images_it_is_the_paired_t_interval(draws: int) -> None:
    values = np.random.default_rng(draws).normal(0.3, 1.0, draws)
    found = estimate(np.column_stack([values] * 5), np.random.default_rng(0), 40_000)
    paired = stats.ttest_1samp(values, 0.0)
    assert found.standard_error == pytest.approx(stats.sem(values))
    assert found.freedom == pytest.approx(draws - 1)
    expected = paired.confidence_interval(0.95)
    # Resampling sees the sample's skewness too, which at three draws, with ten different resamples, is all.
    allowed = (0.6 if draws == 3 else 0.12) * (expected.high - values.mean())
    assert found.interval(0.95) == pytest.approx(tuple(expected), abs=allowed)


def test_the_standard_error_is_that_of_the_analysis_of_variance() -> None:
    random = np.random.default_rng(0)
    spreads, draws, images = (0.3, 0.4, 1.0), 8, 30
    means, variances = zip(
        *[
            (values.mean(), standard_error(values)[0] ** 2)
            for values in (crossed(random, draws, images, spreads) for _ in range(4000))
        ],
        strict=True,
    )
    truth = 0.3**2 / draws + 0.4**2 / images + 1.0 / (draws * images)
    assert np.var(means) == pytest.approx(truth, rel=0.08)
    # Held to the one-way variances, it may be a little above.
    assert truth * 0.97 < np.mean(variances) < truth * 1.08


@pytest.mark.parametrize(
    ("draws", "spreads"),
    [(10, (0.02, 0.1, 0.5)), (20, (0.02, 0.1, 0.5)), (10, (0.1, 0.1, 0.5)), (10, (0.0, 0.3, 0.5))],
)
def test_intervals_cover_the_truth_as_often_as_they_say(draws: int, spreads: tuple[float, ...]) -> None:
    random = np.random.default_rng(draws)
    simulations, images, covered = 300, 80, 0
    for _ in range(simulations):
        low, high = estimate(crossed(random, draws, images, spreads), random, 1000).interval(0.95)
        covered += low <= 0 <= high
    error = (0.95 * 0.05 / simulations) ** 0.5
    print(f"coverage {covered / simulations:.3f} of 0.95, Monte Carlo error {error:.3f}")
    assert abs(covered / simulations - 0.95) < 3 * error


@given(st.integers(0, 10_000), st.floats(-0.5, 0.5))
@hypothesis_settings(max_examples=25)
def test_swapped_arms_flip_the_sign_and_a_shift_moves_the_interval(seed: int, shift: float) -> None:
    values = outcomes(seed, 6, 30)
    found, swapped, moved = (
        estimate(changed, np.random.default_rng(0), 1000) for changed in (values, -values, values + shift)
    )
    low, high = found.interval(0.95)
    assert swapped.mean == -found.mean
    assert swapped.interval(0.95) == pytest.approx((-high, -low))
    assert moved.interval(0.95) == pytest.approx((low + shift, high + shift), abs=1e-9)


@given(st.integers(0, 10_000), st.sampled_from([0.9, 0.95, 0.99]), st.floats(-0.3, 0.3))
@hypothesis_settings(max_examples=50)
def test_an_interval_excludes_what_its_p_value_rejects(seed: int, level: float, line: float) -> None:
    found = estimate(outcomes(seed, 6, 30), np.random.default_rng(0), 1000)
    low, high = found.interval(level)
    assert (answer_of(low, high, line) != "undecided") == (found.p_value(line) <= 1 - level)


def test_equal_arms_differ_by_nothing_for_certain() -> None:
    found = estimate(np.zeros((3, 10)), np.random.default_rng(0), 1000)
    assert (found.standard_error, found.interval(0.99)) == (0.0, (0.0, 0.0))
    assert answer_of(0.0, 0.0, -0.01) == "replicated"
    assert answer_of(0.0, 0.0, 0.0) == "undecided"
    assert answer_of(0.0, 0.0, 0.01) == "not replicated"


@pytest.mark.parametrize("freedom", [1, 5, 19, 200])
def test_the_detectable_effect_has_the_power_that_is_told(freedom: int) -> None:
    effect = Resampled(0.0, 0.02, freedom, np.zeros(1000)).detectable(0.99)
    power = stats.nct.sf(stats.t.ppf(0.995, freedom), freedom, effect / 0.02)
    assert power == pytest.approx(0.8, abs=1e-5)


def test_holm_is_the_closed_test_by_bonferroni() -> None:
    p_values = [0.04, 0.001, 0.03, 0.8]
    assert holm_p_values(p_values) == pytest.approx([0.09, 0.004, 0.09, 0.8])
    # Rejected by Holm at 5 %: those whose adjusted p-value is at most 0.05, as Marcus, Peritz and Gabriel's
    # closed test by Bonferroni has it: every intersection that holds the claim is rejected.
    for number in range(4):
        others = [p for place, p in enumerate(p_values) if place != number]
        closed = []
        for chosen in range(8):
            together = [p_values[number], *(p for place, p in enumerate(others) if chosen >> place & 1)]
            closed.append(min(1.0, len(together) * min(together)))
        assert holm_p_values(p_values)[number] == pytest.approx(max(closed))


def test_levels_are_those_of_holms_steps() -> None:
    estimates = [
        estimate(outcomes(seed) + shift, np.random.default_rng(0), 4000)
        for seed, shift in ((1, 0.9), (2, -0.1), (3, -0.6), (4, -0.1))
    ]
    lines = [0.0, 0.0, 0.0, 0.0]
    p_values = [found.p_value(0.0) for found in estimates]
    assert p_values[0] < 0.01 > p_values[2]
    assert min(p_values[1], p_values[3]) > 0.05
    levels = holm_levels(estimates, lines, p_values, 0.95)
    assert levels == pytest.approx([1 - 0.05 / 4, 0.975, 1 - 0.05 / 3, 0.975])


def test_weights_of_a_trend_are_least_squares() -> None:
    images, gains = [5, 10, 40], [0.06, 0.03, 0.01]
    slope = stats.linregress(np.log2(images), gains).slope
    assert halving_weights(images) @ gains == pytest.approx(-slope)


DRAWS = 6
TARGETS = {
    f"{word}_{draw}": (images, draw) for word, images in (("five", 5), ("ten", 10)) for draw in range(DRAWS)
}
TEN = tuple(target for target, (images, _) in TARGETS.items() if images == 10)


@pytest.fixture
def runs(tmp_path: Path, record: Any) -> Callable[..., list[Path]]:
    """A function that writes predictions of a plain and a reusing recipe: right with the given chances."""

    def make(plain: float, reuse: float, images: int = 40) -> list[Path]:
        paths = []
        for target, (_, draw) in TARGETS.items():
            for selection, recipe, chance in (("none", "plain", plain), ("uot", "reuse", reuse)):
                random = np.random.default_rng([draw, len(recipe), len(target)])
                labels = np.arange(images) % 4
                right = random.random(images) < chance
                order = random.permutation(images)
                columns: dict[str, Any] = {
                    "sample_id": [f"image {number:03}" for number in order],
                    "split": ["test"] * images,
                    "label": labels[order],
                    "prediction": np.where(right, labels, (labels + 1) % 4)[order],
                    "probabilities": np.full((images, 4), 0.25),
                }
                path = (
                    tmp_path / "small" / target / selection / recipe / f"seed{draw}" / "predictions.parquet"
                )
                path.parent.mkdir(parents=True, exist_ok=True)
                write_table("predictions", path, columns, record)
                paths.append(path)
        return paths

    return make


def claim(kind: str = "difference", margin: float = 0.0, targets: tuple[str, ...] = TEN) -> Any:
    """A claim as the step's settings have it."""
    draws: dict[int, list[Any]] = {}
    for target in targets:
        images, draw = TARGETS[target]
        pair = {"target": target, "images": images, "seed": draw, "better": "uot", "baseline": "none"}
        draws.setdefault(draw, []).append(pair)
    return {
        "claim": "Reuse helps",
        "kind": kind,
        "measure": "top1",
        "margin": margin,
        "backbone": "small",
        "better": {"recipe": "reuse", "selections": ["uot"]},
        "baseline": {"recipe": "plain", "selections": []},
        "draws": list(draws.values()),
    }


def asked(*claims: Any) -> dict[str, Any]:
    return {"level": 0.95, "resamples": 2000, "seed": 0, "claims": list(claims)}


def test_a_matrix_matches_images_by_their_names(runs: Callable[..., list[Path]]) -> None:
    paths = runs(0.3, 0.8)
    matrix = Outcomes(paths).matrix(claim())
    right = {}
    for path in paths:
        table = read_table("predictions", path).to_pandas().sort_values("sample_id")
        right[path.parts[-5], path.parts[-3]] = (table["label"] == table["prediction"]).to_numpy(dtype=float)
    gain = {target: right[target, "reuse"] - right[target, "plain"] for target in TARGETS}
    assert matrix == pytest.approx(np.array([gain[target] for target in TEN]))
    trend = Outcomes(paths).matrix(claim("trend", targets=tuple(TARGETS)))
    assert trend == pytest.approx(
        np.array([gain[f"five_{draw}"] - gain[f"ten_{draw}"] for draw in range(DRAWS)])
    )


def test_answers_table_and_text(runs: Callable[..., list[Path]], tmp_path: Path, record: Any) -> None:
    settings = asked(
        claim(),
        claim("non_inferiority", 0.01),
        claim("difference", 0.99),
        claim("trend", targets=tuple(TARGETS)),
    )
    answered = answer_all(settings, Outcomes(runs(0.05, 0.95, 400)), Values())
    assert [one.row["answer"] for one in answered] == [
        "replicated",
        "replicated",
        "not replicated",
        "undecided",
    ]
    assert [one.row["line"] for one in answered] == [0.0, -0.01, 0.99, 0.0]
    write(tmp_path / "claims.parquet", answered, record)
    rows = read_table("claims", tmp_path / "claims.parquet").to_pylist()
    assert [row["claim"] for row in rows] == ["Reuse helps"] * 4
    assert all(row["low"] <= row["estimate"] <= row["high"] for row in rows)
    assert (rows[0]["draws"], rows[0]["images"], rows[0]["better"]) == (DRAWS, 400, "reuse uot")
    assert {(row["measure"], row["unit"], row["side"], row["reason"]) for row in rows} == {
        ("top1", "share", "above", None)
    }
    text = claims_text(answered, settings)
    assert "1. Reuse helps: REPLICATED" in text
    assert "asked       reuse uot - plain above -1.00, in points of top-1 accuracy" in text
    assert "with 5 images a class" in text
    again = answer_all(settings, Outcomes(runs(0.05, 0.95, 400)), Values())
    assert [one.row for one in again] == [one.row for one in answered]


def test_runs_tested_on_other_images_are_refused(runs: Callable[..., list[Path]], record: Any) -> None:
    paths = runs(0.3, 0.8)
    table = read_table("predictions", paths[-1])
    write_table("predictions", paths[-1], table.slice(1), record)
    with pytest.raises(PipelineError, match=r"seed5/predictions.parquet: tested on other images .*39 and 40"):
        Outcomes(paths).matrix(claim())


def test_a_run_that_is_not_there_is_named(runs: Callable[..., list[Path]]) -> None:
    with pytest.raises(PipelineError, match="no predictions were given of the run small/ten_5/uot/reuse/5"):
        Outcomes(runs(0.3, 0.8)[:-1]).matrix(claim())
    with pytest.raises(PipelineError, match="so the run is not known"):
        Outcomes([Path("predictions.parquet")])


def test_runs_without_test_images_are_refused(runs: Callable[..., list[Path]], record: Any) -> None:
    paths = runs(0.3, 0.8)
    table = read_table("predictions", paths[0])
    validation = table.set_column(1, "split", [["validation"] * len(table)])
    write_table("predictions", paths[0], validation, record)
    with pytest.raises(PipelineError, match="no test image"):
        Outcomes(paths).right(RunKeys("small", "five_0", "none", "plain", 0))
