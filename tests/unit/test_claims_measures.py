"""Claims about numbers of runs: paired t-tests over draws of metrics and of training times."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from pipeline.claims.answer import answer_all, answer_of, write
from pipeline.claims.measures import MEASURES, Measured, decimals_of
from pipeline.claims.outcomes import Outcomes, RunKeys
from pipeline.claims.student import student
from pipeline.claims.text import claims_text
from pipeline.claims.values import Values
from pipeline.errors import PipelineError
from pipeline.provenance import Provenance
from pipeline.tables import read_table, write_table

# S_Dbw and seconds of fine-tuning of eight draws.
COIN = [0.51, 0.47, 0.55, 0.49, 0.52, 0.50, 0.46, 0.53]
PLAIN = [0.61, 0.60, 0.63, 0.66, 0.59, 0.64, 0.62, 0.60]
COIN_TIMES = [30.5, 31.0, 29.8, 30.2, 30.9, 31.2, 30.1, 30.4]
PLAIN_TIMES = [40.2, 41.0, 39.9, 40.8, 40.5, 40.1, 41.3, 40.0]
FIRST_TIME = 11.0
Make = Callable[..., Values]


def record_of(recipe: str, draw: int) -> Provenance:
    """Of a run: COIN's starts from what its first stage made."""
    first = Provenance("pipeline.initialisation", {"seed": draw}, "", {}, {})
    name = "coin" if recipe == "coin" else "none"
    inputs = {"weights": first.digest() if recipe == "coin" else "of the backbone"}
    return Provenance("pipeline.finetuning", {"initialise": {"name": name}}, "", inputs, {})


def write_timings(path: Path, stage: str, seconds: float, record: Provenance, device: str = "cpu") -> None:
    """Two epochs that add up to that time."""
    columns = {
        "stage": [stage] * 2,
        "epoch": [1, 2],
        "images": [100, 100],
        "seconds": [seconds * 0.25, seconds * 0.75],
        "device": [device] * 2,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    write_table("timings", path, columns, record)


@pytest.fixture
def values(tmp_path: Path) -> Make:
    """A function that writes the tables of COIN and of plain runs, and opens them."""

    def make(
        coin: Sequence[float] = COIN,
        plain: Sequence[float] = PLAIN,
        devices: Sequence[str] = ("cpu",) * 8,
        without: str = "",
    ) -> Values:
        metrics, timings, firsts = [], [], []
        for draw in range(len(coin)):
            first = tmp_path / "initialisations" / "small" / "birds" / "coin-1" / f"seed{draw}"
            write_timings(
                first / "timings.parquet",
                "coin",
                FIRST_TIME,
                Provenance("pipeline.initialisation", {"seed": draw}, "", {}, {}),
            )
            firsts.append(first / "timings.parquet")
            for recipe, found, times in (("coin", coin, COIN_TIMES), ("plain", plain, PLAIN_TIMES)):
                folder = tmp_path / "runs" / "small" / "birds" / "none" / recipe / f"seed{draw}"
                record = record_of(recipe, draw)
                device = devices[draw] if recipe == "plain" else "cpu"
                write_timings(folder / "timings.parquet", "finetune", times[draw], record, device)
                # The validation part says the opposite, and another metric something else.
                rows = [("test", "top5", 0.5), ("validation", "s_dbw", 9 - found[draw])]
                rows += [("test", name, found[draw]) for name in ("s_dbw", "mean_per_class")]
                rows = [row for row in rows if row[1] != without]
                columns = {
                    **{"backbone": ["small"] * len(rows), "target": ["birds"] * len(rows)},
                    **{"selection": ["none"] * len(rows), "recipe": [recipe] * len(rows)},
                    "seed": [draw] * len(rows),
                    **dict(zip(("split", "metric", "value"), zip(*rows, strict=True), strict=True)),
                }
                columns = {name: list(column) for name, column in columns.items()}
                write_table("metrics", folder / "metrics.parquet", columns, record)
                metrics.append(folder / "metrics.parquet")
                timings.append(folder / "timings.parquet")
        return Values(metrics, timings, firsts)

    return make


def claim(measure: str, kind: str = "difference", draws: int = 8, **margins: float | None) -> dict[str, Any]:
    """COIN is better than plain fine-tuning, as the step's settings have it."""
    pairs = [
        {"target": "birds", "images": None, "seed": draw, "better": "none", "baseline": "none"}
        for draw in range(draws)
    ]
    return {
        **{"claim": f"COIN wins by {measure}", "kind": kind, "measure": measure, "backbone": "small"},
        **{"margin": 0.0, "relative_margin": None},
        **margins,
        "better": {"recipe": "coin", "selections": []},
        "baseline": {"recipe": "plain", "selections": []},
        "draws": [[pair] for pair in pairs],
    }


def answers(values: Values, *claims: dict[str, Any]) -> list[Any]:
    settings = {"level": 0.95, "resamples": 1000, "seed": 0, "claims": list(claims)}
    return answer_all(settings, Outcomes([]), values)


def row_of(values: Values, *claims: dict[str, Any]) -> Any:
    return answers(values, *claims)[0].row


def close(*expected: float) -> Any:
    return pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("margin", [0.0, 0.09, 0.2])
def test_a_metric_that_should_be_low_is_compared_by_the_paired_t_test(values: Make, margin: float) -> None:
    row = row_of(values(), claim("s_dbw", margin=margin))
    # A line other than zero is tested as scipy does it: by shifting one arm to it.
    shifted = stats.ttest_rel(np.array(COIN) + margin, PLAIN)
    interval = stats.ttest_rel(COIN, PLAIN).confidence_interval(0.95)
    assert (row["low"], row["high"], row["p_value"]) == close(interval.low, interval.high, shifted.pvalue)
    assert row["estimate"] == pytest.approx(np.mean(COIN) - np.mean(PLAIN))
    assert row["standard_error"] == pytest.approx(stats.sem(np.subtract(COIN, PLAIN)))
    assert (row["unit"], row["side"], row["line"]) == ("1", "below", -margin)
    assert (row["draws"], row["images"], row["reason"]) == (8, None, None)
    assert row["answer"] == {0.0: "replicated", 0.09: "undecided", 0.2: "not replicated"}[margin]


def test_a_metric_that_should_be_high_is_better_above(values: Make) -> None:
    row = row_of(values(), claim("mean_per_class"))
    assert (row["answer"], row["side"], row["unit"]) == ("not replicated", "above", "share")
    swapped = row_of(values(PLAIN, COIN), claim("mean_per_class", margin=0.05))
    assert (swapped["answer"], swapped["line"]) == ("replicated", 0.05)


def test_time_is_that_of_all_stages_and_compared_by_ratios(values: Make) -> None:
    one = answers(values(), claim("seconds", "non_inferiority", margin=None, relative_margin=0.05))[0]
    row, coin = one.row, np.array(COIN_TIMES) + FIRST_TIME
    ratios = np.log(coin) - np.log(PLAIN_TIMES)
    test = stats.ttest_rel(np.log(coin), np.log(PLAIN_TIMES) + np.log(1.05))
    interval = np.exp(stats.ttest_1samp(ratios, 0).confidence_interval(0.95)) - 1
    assert one.means["better"][None] == pytest.approx(coin.mean())
    assert row["estimate"] == pytest.approx(stats.gmean(coin / PLAIN_TIMES) - 1)
    assert (row["low"], row["high"], row["p_value"]) == close(*interval, test.pvalue)
    assert row["line"] == pytest.approx(0.05)
    assert (row["unit"], row["side"], row["answer"]) == ("share of baseline", "below", "replicated")
    assert row_of(values(), claim("seconds"))["answer"] == "not replicated"
    own = row_of(values(), claim("seconds", "non_inferiority", margin=5.0))
    assert (own["unit"], own["line"], own["answer"]) == ("s", 5.0, "replicated")
    assert own["estimate"] == pytest.approx(coin.mean() - np.mean(PLAIN_TIMES))


@pytest.mark.parametrize(
    ("measure", "kind", "relative", "line"),
    [
        ("seconds", "difference", 0.2, -0.2),
        ("seconds", "non_inferiority", 0.2, 0.2),
        ("mean_per_class", "difference", 0.2, 0.2),
        ("mean_per_class", "non_inferiority", 0.2, -0.2),
    ],
)
def test_relative_lines_are_shares_of_the_baseline(
    measure: str, kind: str, relative: float, line: float
) -> None:
    asked = claim(measure, kind, relative_margin=relative)
    measured = Measured.of(asked)
    found = measured.line(asked)
    assert measured.shown(found) == pytest.approx(line)
    assert found == pytest.approx(measured.effect(3 * (1 + line), 3))


@given(st.lists(st.floats(-3, 3), min_size=3, max_size=12), st.floats(0.5, 0.999), st.floats(-1, 1))
def test_an_interval_over_draws_excludes_what_its_p_value_rejects(
    effects: list[float], level: float, line: float
) -> None:
    found = student(effects)
    low, high = found.interval(level)
    # Where the line lies on an end but for rounding, either may be said.
    if min(abs(low - line), abs(high - line)) > 1e-9:
        assert (answer_of(low, high, line) != "undecided") == (found.p_value(line) <= 1 - level)


def test_the_detectable_effect_has_its_power_beyond_the_line(values: Make) -> None:
    row = row_of(values(), claim("seconds", relative_margin=0.1), claim("s_dbw"))
    beyond = np.log(row["line"] + 1) - np.log(row["line"] + 1 - row["detectable"])
    # Of two claims the strictest level is 97.5 %.
    power = stats.nct.sf(stats.t.ppf(1 - 0.0125, 7), 7, beyond / row["standard_error"])
    assert power == pytest.approx(0.8, abs=1e-5)


def test_all_claims_are_corrected_together(values: Make) -> None:
    close_call = claim("s_dbw", margin=0.105)
    p_value = stats.ttest_rel(np.array(COIN) + 0.105, PLAIN).pvalue
    assert 0.025 < p_value < 1  # undecided beside another
    rows = [one.row for one in answers(values(), close_call, claim("s_dbw"), claim("seconds", draws=2))]
    # The clear one goes first at 1 - 0.05 / 3, the others have 1 - 0.05 / 2.
    assert [row["level"] for row in rows] == close(0.975, 1 - 0.05 / 3, 0.975)
    assert [row["p_holm"] for row in rows] == close(min(2 * p_value, 1), 3 * rows[1]["p_value"], 1.0)
    interval = stats.ttest_rel(COIN, PLAIN).confidence_interval(0.975)
    assert (rows[0]["low"], rows[0]["high"]) == close(interval.low, interval.high)
    assert [row["answer"] for row in rows] == ["undecided", "replicated", "undecided"]


@pytest.mark.parametrize(("draws", "told"), [(1, "1 draw"), (2, "2 draws")])
def test_fewer_than_three_draws_decide_nothing(
    values: Make, tmp_path: Path, record: Any, draws: int, told: str
) -> None:
    # Even where the difference is the same in both.
    answered = answers(values([1.0] * 8, [2.0] * 8), claim("s_dbw", draws=draws))
    row = answered[0].row
    assert row["reason"] == f"{told}; an interval over draws alone needs at least 3"
    assert (row["answer"], row["estimate"], row["p_value"]) == ("undecided", -1.0, 1.0)
    write(tmp_path / "claims.parquet", answered, record)
    (stored,) = read_table("claims", tmp_path / "claims.parquet").to_pylist()
    assert [stored[name] for name in ("low", "high", "standard_error", "detectable")] == [None] * 4
    text = claims_text(answered, {"level": 0.95})
    assert f"undecided   {told}; an interval" in text
    assert "inf" not in text
    assert "None" not in text


def test_times_on_different_devices_decide_nothing(values: Make) -> None:
    found = values(devices=["cpu"] * 7 + ["NVIDIA H200"])
    row = row_of(found, claim("seconds", relative_margin=0.05))
    assert row["answer"] == "undecided"
    assert row["reason"].endswith(
        "small/birds/none/coin/7 and small/birds/none/plain/7 were trained on NVIDIA H200, cpu"
    )
    assert row_of(found, claim("s_dbw"))["answer"] == "replicated"


def test_the_same_difference_in_every_draw_is_certain(values: Make) -> None:
    found = values([1.0] * 8, [2.0] * 8)
    rows = [row_of(found, claim("s_dbw", margin=margin)) for margin in (0.5, 1.0, 1.5)]
    assert [row["answer"] for row in rows] == ["replicated", "undecided", "not replicated"]
    assert [row["p_value"] for row in rows] == [0.0, 1.0, 0.0]


def test_the_text_says_the_measure_and_its_unit(values: Make) -> None:
    asked = [
        claim("seconds", "non_inferiority", margin=None, relative_margin=0.05),
        claim("s_dbw", margin=0.05),
    ]
    answered = answers(values(), *asked)
    text = claims_text(answered, {"level": 0.95})
    assert "coin - plain below +5.00, in % of the baseline's training time" in text
    assert f"found       {100 * answered[0].row['estimate']:+.2f}, 95 % interval" in text
    assert "better      coin: 41.5 s" in text
    assert "coin - plain below -0.050, in S_Dbw" in text
    assert "baseline    plain: 0.619\n" in text
    assert "from        8 draws, small" in text


@pytest.mark.parametrize(
    ("unit", "values", "decimals"),
    [("share", [0.5], 2), ("s", [1234.5, 2.0], 0), ("s", [12.3], 1), ("1", [0.0123], 4), ("1", [0.0], 2)],
)
def test_numbers_are_told_with_three_digits(unit: str, values: list[float], decimals: int) -> None:
    assert decimals_of(unit, values) == decimals


def test_a_metric_that_a_run_does_not_have_is_named(values: Make) -> None:
    with pytest.raises(
        PipelineError,
        match=r"coin/seed0/metrics.parquet: no 's_dbw' of the test part; found top5, mean_per_class",
    ):
        row_of(values(without="s_dbw"), claim("s_dbw"))
    with pytest.raises(PipelineError, match="no metrics were given of the run small/birds/none/coin/8"):
        row_of(values(), claim("s_dbw", draws=9))


def test_a_metric_that_is_no_number_is_refused(values: Make) -> None:
    with pytest.raises(PipelineError, match=r"plain/seed0/metrics.parquet: s_dbw of the test part is nan"):
        row_of(values(plain=[np.nan] * 8), claim("s_dbw"))


def test_ratios_need_numbers_above_zero(values: Make) -> None:
    with pytest.raises(
        PipelineError,
        match=r"found s_dbw 0\.51 of the run small/birds/none/coin/0 and 0 of .*relative_margin needs",
    ):
        row_of(values(plain=[0.0] * 8), claim("s_dbw", relative_margin=0.05))


def test_a_first_stage_without_timings_is_refused(values: Make, tmp_path: Path) -> None:
    values()
    path = tmp_path / "runs" / "small" / "birds" / "none" / "coin" / "seed3" / "timings.parquet"
    with pytest.raises(PipelineError, match=r"seed3/timings.parquet: no timings were given of the stage"):
        Values(timings=[path]).time(RunKeys("small", "birds", "none", "coin", 3))


def test_every_measure_says_which_way_is_better() -> None:
    lower = {name for name, metric in MEASURES.items() if metric.lower_is_better}
    higher = {"top1", "top5", "mean_per_class", "inter_class_spread"}
    assert lower == MEASURES.keys() - higher
