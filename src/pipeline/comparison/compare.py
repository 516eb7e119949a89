"""All runs side by side."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from pipeline.comparison.differences import paired_difference
from pipeline.provenance import Provenance
from pipeline.tables import atomic_write, read_table, write_table
from pipeline.text import aligned, titled

KEYS = ["backbone", "target", "selection", "recipe", "split", "metric"]


def compare(
    metrics: list[Path],
    joined: Path,
    comparison: Path,
    text: Path,
    main_metric: Mapping[str, str],
    provenance: Provenance,
    baselines: Sequence[str] = (),
) -> None:
    """Join the metrics of all runs, and summarise them over seeds.

    Args:
        metrics: Tables of single runs, in the order that rows are to have.
        joined: The metrics table of all runs to write.
        comparison: The comparison table to write: mean and sample standard deviation over seeds.
        text: The comparison as text, for the terminal.
        main_metric: For each target the metric that papers report.
        provenance: Kept in both tables.
        baselines: Recipes that the text may measure the others against; the first that a backbone
            and target has.
    """
    table = pa.concat_tables([read_table("metrics", path) for path in metrics]).unify_dictionaries()
    write_table("metrics", joined, table, provenance)
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
    write_table("comparison", comparison, columns, provenance)
    atomic_write(text, comparison_text(values, main_metric, baselines))


def over_seeds(metrics: pa.Table) -> dict[tuple[str, ...], dict[int, float]]:
    """The value at each seed, by `KEYS`, in the order of the table."""
    values: dict[tuple[str, ...], dict[int, float]] = {}
    for row in metrics.to_pylist():
        values.setdefault(tuple(row[key] for key in KEYS), {})[row["seed"]] = row["value"]
    return values


def comparison_text(
    values: Mapping[tuple[str, ...], Mapping[int, float]],
    main_metric: Mapping[str, str],
    baselines: Sequence[str] = (),
) -> str:
    """A plain table for each backbone and target, best first; in percent.

    Args:
        values: The value at each seed, by `KEYS`.
        main_metric: The metric to show of each target.
        baselines: See `compare`.
    """
    pairs: dict[tuple[str, str], dict[tuple[str, str], dict[str, Mapping[int, float]]]] = {}
    for (backbone, target, selection, recipe, split, metric), seeds in values.items():
        if metric == main_metric[target]:
            ways = pairs.setdefault((backbone, target), {})
            ways.setdefault((recipe, selection), {})[split] = seeds
    tables = []
    for (backbone, target), ways in pairs.items():
        counts = {len(seeds) for splits in ways.values() for seeds in splits.values()}
        title = f"{target} by {backbone}: {main_metric[target]} in %, {_statistic(counts)}"
        tables.append(titled(title, aligned(_cells(ways, baselines, counts), left=[0, 1])))
    return "\n".join(tables)


def _statistic(counts: set[int]) -> str:
    if counts == {1}:
        return "one seed"
    over = f"{min(counts)} seeds" if len(counts) == 1 else "seeds"
    return f"mean ± standard deviation over {over}"


def _cells(
    ways: Mapping[tuple[str, str], Mapping[str, Mapping[int, float]]],
    baselines: Sequence[str],
    counts: set[int],
) -> list[list[str]]:
    """Header and lines; a column of seeds only where their number differs."""
    parts = [part for part in ("validation", "test") if any(part in splits for splits in ways.values())]
    compared, spread = parts[-1], max(counts) > 1
    baseline = next((way for name in baselines for way in ways if way[0] == name and len(ways) > 1), None)

    def rank(way: tuple[str, str]) -> float:
        return -float(np.mean(list(ways[way].get(compared, {0: 0.0}).values())))

    header = ["recipe", "selection", *parts]
    header += [f"{compared} - {baseline[0]}"] if baseline else []
    lines = [header + (["seeds"] if len(counts) > 1 else [])]
    for way in sorted(ways, key=rank):
        line = [*way, *(_number(ways[way].get(part, {}), spread) for part in parts)]
        if baseline:
            found = paired_difference(ways[way].get(compared, {}), ways[baseline].get(compared, {}))
            shown = dict(enumerate(found.values)) if found and way != baseline else {}
            line.append(_number(shown, spread, "+"))
        lines.append(line + ([str(max(map(len, ways[way].values())))] if len(counts) > 1 else []))
    return lines


def _number(seeds: Mapping[int, float], spread: bool, sign: str = "") -> str:
    """Mean and, where the table has it, sample standard deviation."""
    if not seeds:
        return ""
    values = list(seeds.values())
    deviation = f" ± {100 * np.std(values, ddof=1):.1f}" if len(values) > 1 else " " * len(" ± 0.0") * spread
    return f"{100 * np.mean(values):{sign}.1f}{deviation}"
