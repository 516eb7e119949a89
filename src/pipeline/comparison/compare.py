"""All runs side by side."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from pipeline.comparison.differences import paired_difference
from pipeline.provenance import Provenance
from pipeline.tables import SCHEMAS, atomic_write, read_table, write_table
from pipeline.text import aligned, titled

KEYS = ["backbone", "target", "selection", "recipe", "split", "metric"]
# The value at each seed, by `KEYS`; and by recipe and selection, then part.
Values = Mapping[tuple[str, ...], Mapping[int, float]]
Ways = dict[tuple[str, str], dict[str, Mapping[int, float]]]
EMPTY: Values = MappingProxyType({})


class Outputs(NamedTuple):
    """What to write.

    Attributes:
        metrics: The metrics of all runs.
        floors: Those of all floors.
        comparison: Of the runs: mean and sample standard deviation over seeds.
        text: The comparison with its floors as text, for the terminal.
    """

    metrics: Path
    floors: Path
    comparison: Path
    text: Path


def compare(
    metrics: Sequence[Path],
    floors: Sequence[Path],
    outputs: Outputs,
    main_metric: Mapping[str, str],
    provenance: Provenance,
    baselines: Sequence[str] = (),
) -> None:
    """Join the metrics of all runs and of all floors, and summarise those of runs over seeds.

    Args:
        metrics: Tables of single runs, in the order that rows are to have.
        floors: Tables of single floors, likewise.
        outputs: What to write.
        main_metric: For each target the metric that papers report.
        provenance: Kept in the tables.
        baselines: Recipes that the text may measure the others against; the first that a backbone
            and target has.
    """
    table, beside = (_joined(paths) for paths in (metrics, floors))
    write_table("metrics", outputs.metrics, table, provenance)
    write_table("metrics", outputs.floors, beside, provenance)
    values = over_seeds(table)
    rows = [
        {
            **dict(zip(KEYS, key, strict=True)),
            "mean": float(np.mean(list(seeds.values()))),
            "standard_deviation": float(np.std(list(seeds.values()), ddof=1)) if len(seeds) > 1 else None,
            "seeds": len(seeds),
        }
        for key, seeds in values.items()
    ]
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    write_table("comparison", outputs.comparison, columns, provenance)
    atomic_write(outputs.text, comparison_text(values, main_metric, baselines, over_seeds(beside)))


def _joined(paths: Sequence[Path]) -> pa.Table:
    """The rows of some metrics tables."""
    empty = pa.table({name: pa.array([], kind) for name, kind in SCHEMAS["metrics"].columns.items()})
    return pa.concat_tables([read_table("metrics", path) for path in paths] or [empty]).unify_dictionaries()


def over_seeds(metrics: pa.Table) -> dict[tuple[str, ...], dict[int, float]]:
    """The value at each seed, by `KEYS`, in the order of the table."""
    values: dict[tuple[str, ...], dict[int, float]] = {}
    for row in metrics.to_pylist():
        values.setdefault(tuple(row[key] for key in KEYS), {})[row["seed"]] = row["value"]
    return values


def comparison_text(
    values: Values, main_metric: Mapping[str, str], baselines: Sequence[str] = (), floors: Values = EMPTY
) -> str:
    """A plain table for each backbone and target, best first, its floors below; in percent.

    Args:
        values: The value at each seed, by `KEYS`.
        main_metric: The metric to show of each target.
        baselines: See `compare`.
        floors: As `values`. They are compared with nothing.
    """
    pairs, beside = (_by_pair(found, main_metric) for found in (values, floors))
    tables = []
    for (backbone, target), ways in pairs.items():
        counts = {len(seeds) for splits in ways.values() for seeds in splits.values()}
        title = f"{target} by {backbone}: {main_metric[target]} in %, {_statistic(counts)}"
        cells = _cells(ways, beside.get((backbone, target), {}), baselines, counts)
        tables.append(titled(title, aligned(cells, left=[0, 1])))
    return "\n".join(tables)


def _by_pair(values: Values, main_metric: Mapping[str, str]) -> dict[tuple[str, str], Ways]:
    """The main metric at each seed by backbone and target, then recipe and selection, then part."""
    pairs: dict[tuple[str, str], Ways] = {}
    for (backbone, target, selection, recipe, split, metric), seeds in values.items():
        if metric == main_metric[target]:
            ways = pairs.setdefault((backbone, target), {})
            ways.setdefault((recipe, selection), {})[split] = seeds
    return pairs


def _statistic(counts: set[int]) -> str:
    if counts == {1}:
        return "one seed"
    over = f"{min(counts)} seeds" if len(counts) == 1 else "seeds"
    return f"mean ± standard deviation over {over}"


def _cells(ways: Ways, floors: Ways, baselines: Sequence[str], counts: set[int]) -> list[list[str]]:
    """Header and lines; a column of seeds only where their number differs."""
    parts = [part for part in ("validation", "test") if any(part in splits for splits in ways.values())]
    compared, spread = parts[-1], max(counts) > 1
    baseline = next((way for name in baselines for way in ways if way[0] == name and len(ways) > 1), None)

    def means(splits: Mapping[str, Mapping[int, float]]) -> list[str]:
        return [_number(splits.get(part, {}), spread) for part in parts]

    def seeds(splits: Mapping[str, Mapping[int, float]]) -> list[str]:
        return [str(max(map(len, splits.values())))] if len(counts) > 1 else []

    header = ["recipe", "selection", *parts]
    header += [f"{compared} - {baseline[0]}"] if baseline else []
    lines = [header + (["seeds"] if len(counts) > 1 else [])]
    for way in _ranked(ways, compared):
        line = [*way, *means(ways[way])]
        if baseline:
            found = paired_difference(ways[way].get(compared, {}), ways[baseline].get(compared, {}))
            shown = dict(enumerate(found.values)) if found and way != baseline else {}
            line.append(_number(shown, spread, "+"))
        lines.append(line + seeds(ways[way]))
    for floor in _ranked(floors, compared):
        lines.append(
            [f"floor: {floor[0]}", "", *means(floors[floor]), *[""] * bool(baseline), *seeds(floors[floor])]
        )
    return lines


def _ranked(ways: Ways, part: str) -> list[tuple[str, str]]:
    """The best on a part first."""
    return sorted(ways, key=lambda way: -float(np.mean(list(ways[way].get(part, {0: 0.0}).values()))))


def _number(seeds: Mapping[int, float], spread: bool, sign: str = "") -> str:
    """Mean and, where the table has it, sample standard deviation."""
    if not seeds:
        return ""
    values = list(seeds.values())
    deviation = f" ± {100 * np.std(values, ddof=1):.1f}" if len(values) > 1 else " " * len(" ± 0.0") * spread
    return f"{100 * np.mean(values):{sign}.1f}{deviation}"
