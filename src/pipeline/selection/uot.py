"""Unbalanced optimal transport between source units and target classes (UOT paper, Eq. 5)."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from pipeline.progress import log
from pipeline.selection.distances import blocks, distances
from pipeline.selection.transport import Plan, solve
from pipeline.selection.units import Scores, Units, levelled

# Share of the target's mass below which a plan says that nothing in the source is like the target, or
# that epsilon_c is too small to tell. Plans between ImageNet and the paper's eight targets carry at least
# 0.68 of it by cosine at 0.01.
ALMOST_NO_MASS = 0.1


def score(source: Units, target: Units, settings: Mapping[str, Any]) -> Scores:
    """log P1: how much of each source unit the plan uses (UOT paper, section 3.2)."""
    plan = plan_between(source, target, settings)
    share = plan.mass / len(target.ids)
    log.info(
        "UOT: converged in %d iterations to %.2g in log P1; the plan carries %.3g of the target's mass",
        plan.iterations,
        plan.accuracy,
        share,
    )
    facts: dict[str, int | float | str] = {
        "iterations": plan.iterations,
        "accuracy": plan.accuracy,
        "target_mass_carried": share,
    }
    if plan.accuracy > settings["tolerance"]:
        log.warning(
            "%s: UOT reached an accuracy of %.2g in log P1, the tolerance asked for is %.2g: rounding allows "
            "no better at costs this large beside epsilon %g; raise epsilon or epsilon_c",
            target.path,
            plan.accuracy,
            settings["tolerance"],
            settings["epsilon"],
        )
    if share < ALMOST_NO_MASS:
        facts["warning"] = (
            f"the plan carries {share:.2g} of the target's mass, less than {ALMOST_NO_MASS:g}: either all "
            "source units are far from the target, and reusing any is not advised, or epsilon_c "
            f"{settings['epsilon_c']:g} is too small for distances of this scale (the median target class "
            f"is at a cost of {_median_nearest(source, target, settings):.3g} from its nearest unit, and "
            f"epsilon is {settings['epsilon']:g})"
        )
        log.warning("%s: %s", target.path, facts["warning"])
    alike = [source.means] if settings["masses"] == "unit" else [source.means, source.images]
    return Scores(levelled(plan.log_mass, *alike), facts)


def shares(source: Units, target: Units, settings: Mapping[str, Any], rows: np.ndarray) -> np.ndarray:
    """Share of each target class's mass that the plan takes from these source units.

    Args:
        source: K_g units.
        target: K_f classes.
        settings: A selection entry.
        rows: Rows of the units, int64 (m,).

    Returns:
        float64 (m, K_f), 0 to 1; the sum over all units is 1 for each class.
    """
    plan = plan_between(source, target, settings)
    cost = distances(source, target, settings["distance"], settings["epsilon_c"])[rows]
    return np.exp(plan.log_rows(cost, rows) - plan.log_received)


def plan_between(source: Units, target: Units, settings: Mapping[str, Any]) -> Plan:
    """The plan of Eq. 5 between two sets of units.

    Args:
        source: K_g units.
        target: K_f classes.
        settings: ``distance`` and ``epsilon_c`` of the cost, ``epsilon``, ``tau1`` and ``tau2`` of
            Eq. 5, ``masses``, ``tolerance`` and ``iterations``.

    Raises:
        PipelineError: If a mean has no cosine, or the iteration does not converge.
    """
    return solve(
        distances(source, target, settings["distance"], settings["epsilon_c"]),
        settings["epsilon"],
        settings["tau1"],
        settings["tau2"],
        settings["tolerance"],
        settings["iterations"],
        None if settings["masses"] == "unit" else (masses(source), masses(target)),
    )


def _median_nearest(source: Units, target: Units, settings: Mapping[str, Any]) -> float:
    """Cost of the source unit nearest to a target class, the median of all classes."""
    cost = distances(source, target, settings["distance"], settings["epsilon_c"])
    nearest = np.min([cost[rows].min(axis=0) for rows in blocks(cost.shape)], axis=0)
    return float(np.median(nearest))


def masses(units: Units) -> np.ndarray:
    """Masses in proportion to the images, float64 (K,), with a mean of 1.

    So they add up to what the paper's unit masses do (section 3.2), and units of equal size get those.
    """
    return units.images / units.images.mean()
