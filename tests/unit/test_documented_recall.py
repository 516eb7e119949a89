"""The recall figures that docs/methods.md prints, against those of the real class means."""

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from pipeline.class_means.read import read
from pipeline.config.selections import GreedyOt, Nearest, Selection, Uot
from pipeline.provenance import Provenance
from pipeline.recall.measure import Keys, Ranking, measure
from pipeline.selection.select import marked, rank
from pipeline.selection.units import Units, read_units

PAGE = Path(__file__).parents[2] / "docs" / "methods.md"
# What the page calls them.
BACKBONES = {"supervised ResNet-18": "resnet18_supervised", "MoCo-v2 ResNet-50": "resnet50_mocov2"}
TARGETS = {
    "CUB": "cub",
    "Pets": "pets",
    "Cars": "cars",
    "Aircraft": "aircraft",
    "Dogs": "dogs",
    "Caltech-101": "caltech",
}
CONCEPTS = {"59 birds": ("bird", 59), "118 dogs": ("dog", 118), "67 vehicles": ("vehicle", 67)}
UOT_COSINE, GREEDY_COSINE, NEAREST_COSINE = (
    Uot(method="uot", distance="cosine", epsilon_c=0.01),
    GreedyOt(method="greedy_ot", distance="cosine"),
    Nearest(method="nearest", distance="cosine"),
)
SELECTIONS = {
    "Greedy-OT l2": GreedyOt(method="greedy_ot", distance="l2"),
    "Greedy-OT cosine": GREEDY_COSINE,
    "UOT l2": Uot(method="uot", distance="l2", epsilon_c=1.0),
    "UOT cosine": UOT_COSINE,
    "nearest l2": Nearest(method="nearest", distance="l2"),
    "nearest cosine": NEAREST_COSINE,
}
# Recall in percent of a concept by a backbone, for a target, by a selection, and the concept's classes.
Recall = Callable[[str, str, str, Selection], tuple[float, int]]


@pytest.fixture(scope="module")
def recall(shared_data: Path, tmp_path_factory: pytest.TempPathFactory, record: Provenance) -> Recall:
    folder = tmp_path_factory.mktemp("units")

    @cache
    def units(dataset: str, backbone: str) -> Units:
        path = folder / f"{dataset}.{backbone}.parquet"
        read(shared_data / "uot_class_means" / path.name, path, {}, record)
        return read_units(path)

    @cache
    def found(backbone: str, target: str, concept: str, selection: Selection) -> tuple[float, int]:
        source = units("imagenet", backbone)
        assert source.concepts is not None
        settings = selection.model_dump(mode="json", exclude={"units"})
        assert settings["count"] == 100
        scores, order = rank(source, units(target, backbone), settings)
        keys = Keys(backbone, "imagenet", target, settings["method"])
        concepts = [source.concepts[row] for row in order]
        ranking = Ranking(keys, settings, scores.values[order], concepts, marked(scores, settings))
        measured = measure(ranking, concept)
        return measured.percent, measured.units

    return found


def table(first_cell: str) -> tuple[list[str], list[list[str]]]:
    """Heading and rows, without bold type, of the only table of the page with this first cell in a line."""
    blocks = [
        [[cell.strip(" *") for cell in line.strip("|").split("|")] for line in block.splitlines()]
        for block in PAGE.read_text(encoding="utf-8").split("\n\n")
        if block.startswith("|")
    ]
    ((heading, _, *rows),) = [block for block in blocks if first_cell in {line[0] for line in block}]
    return heading, rows


def test_table_4_is_as_printed(recall: Recall) -> None:
    heading, rows = table("supervised ResNet-18")
    assert (heading[1:], [row[0] for row in rows]) == (list(SELECTIONS), list(BACKBONES))
    found = [
        [f"{recall(BACKBONES[name], 'cub', 'bird', SELECTIONS[column])[0]:.2f}" for column in heading[1:]]
        for name, *_ in rows
    ]
    assert found == [row[1:] for row in rows]


def test_figure_4a_is_as_printed(recall: Recall) -> None:
    heading, rows = table("epsilon_c")
    assert heading[1:] == ["l2", "cosine"]
    assert [row[0] for row in rows] == ["1", "0.1", "0.01", "0.001"]
    for epsilon_c, *printed in rows:
        selections = [
            Uot(method="uot", distance=distance, epsilon_c=float(epsilon_c)) for distance in heading[1:]
        ]
        assert [both(recall, "cub", "bird", selection) for selection in selections] == printed


def test_recall_for_other_targets_is_as_printed(recall: Recall) -> None:
    heading, rows = table("target")
    assert heading == ["target", "concept", "UOT cosine", "nearest cosine"]
    assert [row[0] for row in rows] == list(TARGETS)
    for target, words, *printed in rows:
        counted, _, bound = words.partition(", at most ")
        concept, units = CONCEPTS[counted]
        assert recall("resnet50_mocov2", TARGETS[target], concept, UOT_COSINE)[1] == units
        assert (bound or None) == (f"{10_000 / units:.2f}" if units > 100 else None)
        pair = [both(recall, TARGETS[target], concept, way) for way in (UOT_COSINE, NEAREST_COSINE)]
        assert pair == printed


def test_where_the_simpler_method_does_as_well(recall: Recall) -> None:
    """The sentences below that table."""
    _, rows = table("target")
    uot, nearest, greedy = (
        {
            (target, backbone): recall(backbone, TARGETS[target], CONCEPTS[words.split(",")[0]][0], way)[0]
            for target, words, *_ in rows
            for backbone in BACKBONES.values()
        }
        for way in (UOT_COSINE, NEAREST_COSINE, GREEDY_COSINE)
    )
    ahead = {cell for cell in uot if uot[cell] > nearest[cell]}
    both_of = {(target, backbone) for target in ("Dogs", "Caltech-101") for backbone in BACKBONES.values()}
    assert ahead == both_of | {("Aircraft", "resnet18_supervised")}
    assert all(greedy[cell] < uot[cell] for cell in uot)


def both(recall: Recall, target: str, concept: str, selection: Selection) -> str:
    """Recall by both backbones as the page prints it."""
    found = [recall(backbone, target, concept, selection)[0] for backbone in BACKBONES.values()]
    return " / ".join(f"{percent:.2f}" for percent in found)
