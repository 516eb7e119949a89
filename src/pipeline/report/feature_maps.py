"""The features of runs in the plane, as they were drawn."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.provenance import Provenance
from pipeline.report import numbers
from pipeline.report.data import Pair, Way, record_of
from pipeline.report.figures import svg_uri
from pipeline.tables import read_table


@dataclass(frozen=True)
class FeatureMaps:
    """All of them.

    Attributes:
        record: What made them.
        drawn: Backbone and target, the figure as a data URI, and what it shows in words.
        methods: How features came into the plane.
        has_s_dbw: Whether S_Dbw of any of them is known.
    """

    record: Provenance
    drawn: list[tuple[Pair, str, str]]
    methods: list[str]
    has_s_dbw: bool


def read_feature_maps(path: Path, figures: Path) -> FeatureMaps:
    """The feature_maps table, and the folder of its figures."""
    table = read_table("feature_maps", path)
    groups: dict[Pair, list[Mapping[str, Any]]] = {}
    for row in table.to_pylist():
        groups.setdefault(Pair(row["backbone"], row["target"]), []).append(row)
    drawn = [
        (pair, svg_uri(figures / pair.backbone / f"{pair.target}.svg"), "; ".join(map(_in_words, rows)))
        for pair, rows in groups.items()
    ]
    methods = list(dict.fromkeys(table["method"].to_pylist()))
    has_s_dbw = table["s_dbw"].null_count < len(table)
    return FeatureMaps(record_of(table), drawn, methods, has_s_dbw)


def _in_words(row: Mapping[str, Any]) -> str:
    if row["recipe"] is None:
        words = [f"{numbers.plural(row['images'], 'test image')} by the untouched backbone"]
        words += [row["measured"]] if row["measured"] else []
    else:
        words = [str(Way(row["recipe"], row["selection"]))]
    if row["accuracy"] is not None:
        words.append(f"{numbers.metric_name(row['metric'])} {numbers.percent(row['accuracy'])} %")
    if row["s_dbw"] is not None:
        words.append(f"S_Dbw {numbers.number(row['s_dbw'], 2)}")
    return ", ".join(words)
