"""Recall as plain tables for the terminal."""

from collections.abc import Iterable

from pipeline.recall.measure import Experiments, Recall
from pipeline.text import aligned, titled


def recall_text(experiments: Experiments) -> str:
    """A table for each experiment, target and concept: selections in rows, backbones in columns."""
    parts = []
    for name, recalls in experiments:
        parts.append(f"{name}\n{'=' * len(name)}\n")
        groups: dict[tuple[str, str, str], list[Recall]] = {}
        for recall in recalls:
            keys = recall.ranking.keys
            groups.setdefault((keys.target, keys.source, recall.concept), []).append(recall)
        parts += [_table(*group, found) for group, found in groups.items()]
    return "\n".join(parts)


def _table(target: str, source: str, concept: str, recalls: list[Recall]) -> str:
    units = _joined(recall.units for recall in recalls)
    title = f"{target} from {source}: recall of the {units} units of {concept}, in %"
    backbones = list(dict.fromkeys(recall.ranking.keys.backbone for recall in recalls))
    bounded = any(recall.bound < 100 for recall in recalls)
    lines = [["selection", "selected", *(["at most"] if bounded else []), *backbones]]
    rows: dict[str, dict[str, Recall]] = {}
    for recall in recalls:
        rows.setdefault(recall.ranking.keys.selection, {})[recall.ranking.keys.backbone] = recall
    for selection, row in rows.items():
        line = [selection, _joined(recall.selected for recall in row.values())]
        line += [_joined(f"{recall.bound:.2f}" for recall in row.values())] if bounded else []
        lines.append(line + [f"{row[name].percent:.2f}" if name in row else "" for name in backbones])
    return titled(title, aligned(lines, left=[0]))


def _joined(values: Iterable[object]) -> str:
    """The values, each once; of one source there is one."""
    return "/".join(map(str, dict.fromkeys(values)))
