"""The report: what it says, of any results, and that it needs nothing but itself."""

import base64
import io
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from safetensors.numpy import save_file

from pipeline.errors import PipelineError
from pipeline.provenance import Provenance, code, code_digest
from pipeline.provenance.record import METADATA_KEY
from pipeline.report import numbers
from pipeline.report.answers import answer, compare_ways, is_beyond_spread, narrowed
from pipeline.report.data import Curve, Inputs, Pair, Run, Time, Way, read_backbone, read_run
from pipeline.report.described import described, differing, flat, shared
from pipeline.report.examples import _data_uri, read_datasets, read_selection, read_units
from pipeline.report.explanations import read_explanations
from pipeline.report.figures import SERIES, Line, Point, mean_line, panel, scatter
from pipeline.report.gaps import read_gaps
from pipeline.report.page import collect, render, write_report
from pipeline.report.scales import difference_scale, scale_of, seed_scale
from pipeline.report.searches import read_searches
from pipeline.report.times import costs, stages

from ..made_up import PLAIN, RECIPES, Results

# Test accuracy at seeds 0, 1, 2. Against plain: reuse by uot is 4, 5, 6 points above, by clusters
# 1, -1, 3; scratch far below.
VALUES = {
    ("scratch", "none"): (0.20, 0.21, 0.22),
    ("plain", "none"): (0.50, 0.51, 0.49),
    ("coin", "none"): (0.48, 0.50, 0.49),
    ("reuse", "uot"): (0.54, 0.56, 0.55),
    ("reuse", "random"): (0.50, 0.52, 0.50),
    ("reuse", "uot_clusters"): (0.51, 0.50, 0.52),
}
# The t quantile of two degrees of freedom at 0.975, from a table.
T2 = 4.3026527


def by_value(backbone: str, target: str, recipe: str, selection: str, seed: int) -> float:
    return VALUES[recipe, selection][seed]


@dataclass(frozen=True)
class Usual:
    """The report of the results that most tests are about; nobody changes them."""

    folder: Path
    inputs: Inputs
    settings: dict[str, Any]
    context: dict[str, Any]
    html: str


@pytest.fixture(scope="module")
def usual(tmp_path_factory: pytest.TempPathFactory) -> Usual:
    folder = tmp_path_factory.mktemp("usual")
    inputs, settings = Results(folder, accuracy=by_value).make()
    context = collect(inputs, settings)
    return Usual(folder, inputs, settings, context, render(context))


@pytest.fixture
def page(tmp_path: Path) -> Callable[..., str]:
    """A function that makes results up and gives the report's HTML."""

    def make(**values: Any) -> str:
        inputs, settings = Results(tmp_path, **{"accuracy": by_value} | values).make()
        write_report(inputs, tmp_path / "report.html", settings)
        return (tmp_path / "report.html").read_text(encoding="utf-8")

    return make


class Reader(HTMLParser):
    """Text by section, table rows, and every attribute that could load something."""

    VOID = ("meta", "img", "br", "link", "input")

    def __init__(self, html: str):
        super().__init__()
        self.open: list[str] = []
        self.text: dict[str, str] = {}
        self.rows: dict[str, list[list[str]]] = {}
        self.loads: list[tuple[str, str]] = []
        self.tags: set[str] = set()
        self.ids: list[str] = []
        self.images: list[str] = []
        self._section = "header"
        self._cell = False
        self.feed(html)
        self.close()
        assert not self.open, f"left open: {self.open}"

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        found = {name: value or "" for name, value in attributes}
        self.tags.add(tag)
        self.ids += [found["id"]] if "id" in found else []
        if tag not in self.VOID:
            self.open.append(tag)
        if tag in ("section", "footer", "style"):
            self._section = found.get("id", tag)
        if tag == "img":
            self.images.append(found["src"])
            assert "alt" in found
        if tag == "tr":
            self.rows.setdefault(self._section, []).append([])
        if tag in ("td", "th"):
            self._cell = True
            self.rows[self._section][-1].append("")
        self.loads += [
            (tag, found[name]) for name in ("src", "href", "xlink:href", "action", "data") if name in found
        ]
        assert not [name for name in found if name.startswith("on")], f"a handler in {tag}"

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attributes)
        if tag not in self.VOID:
            self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> without its start"
        assert self.open.pop() == tag, f"</{tag}> closes something else"
        self._cell = self._cell and tag not in ("td", "th")
        if tag in ("td", "th", "p", "dt", "dd", "li", "summary", "caption") and not self._cell:
            self.handle_data(" ")
        if tag == "style":
            self._section = "header"

    def handle_data(self, data: str) -> None:
        self.text[self._section] = self.text.get(self._section, "") + data
        if self._cell:
            self.rows[self._section][-1][-1] += data


def words(text: str) -> str:
    """Text with every run of spaces as one, and a minus that a keyboard has."""
    return " ".join(text.split()).replace(numbers.MINUS, "-")


# The page as a whole


def test_every_section_is_there_and_in_order(usual: Usual) -> None:
    reader = Reader(usual.html)
    sections = [name for name in reader.text if name not in ("header", "style")]
    assert sections == ["answer", "comparison", "training", "selections", "ran", "time", "footer"]
    assert "Which way is best?" in reader.text["header"]
    assert "18 runs on birds, by small: 4 recipes, 3 selections and 3 seeds." in reader.text["header"]
    assert "snakemake --cores all" in reader.text["footer"]
    assert len(reader.ids) == len(set(reader.ids))


def test_the_comparison_names_every_model_and_how_to_take_the_best_away(usual: Usual) -> None:
    text = words(Reader(usual.html).text["comparison"])
    for run in usual.inputs.runs:
        backbone, target, selection, recipe, seed = run.parts[-5:]
        assert seed in ("seed0", "seed1", "seed2")
        folder = f"results/runs/{backbone}/{target}/{selection}/{recipe}/seed"
        assert folder + "{0,1,2}/model.safetensors" in text
    command = re.search(r"python -m pipeline\.export (\S+) FOLDER --onnx", text)
    assert command is not None
    first, *_ = re.findall(r"(results/runs/\S+/seed)\{", text)
    assert command[1] == f"{first}0"


def test_the_page_needs_nothing_but_itself(usual: Usual) -> None:
    html = usual.html
    reader = Reader(html)
    assert not {"script", "link", "iframe", "object", "embed", "base"} & reader.tags
    assert reader.loads
    for tag, address in reader.loads:
        assert address.startswith(("data:image/", "#")), f"{tag} loads {address[:60]}"
    referred = {address[1:] for _, address in reader.loads if address.startswith("#")}
    assert referred | set(re.findall(r"url\(#([^)]*)\)", html)) <= set(reader.ids)
    assert "@import" not in html
    assert not re.findall(r"url\((?!#)", html)
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', html)
    assert policy is not None
    assert policy[1] == "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def test_images_are_those_of_the_datasets(usual: Usual) -> None:
    reader = Reader(usual.html)
    pixels = {
        image.tobytes()
        for name in ("doodles", "birds")
        for image in np.load(usual.folder / "datasets" / name / "images_12.npy")
    }
    # 4 classes of the target; 6 classes by uot, 3 at random, 5 clusters, each with 6 images; and one of
    # each of the 3 units that the 3 selections pick.
    assert len(reader.images) == 4 + 6 * (6 + 3 + 5) + 3 * 3
    for source in reader.images:
        content = base64.b64decode(source.partition("base64,")[2])
        image = np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))
        assert image.tobytes() in pixels


def test_two_writes_are_equal_byte_for_byte(tmp_path: Path) -> None:
    inputs, settings = Results(tmp_path / "a", accuracy=by_value).make()
    again, _ = Results(tmp_path / "another place", accuracy=by_value).make()
    pages = []
    for number, given in enumerate((inputs, inputs, again)):
        write_report(given, tmp_path / f"{number}.html", settings)
        pages.append((tmp_path / f"{number}.html").read_bytes())
    assert pages[0] == pages[1] == pages[2]
    assert str(tmp_path).encode() not in pages[0]


EVIL = [
    "<script>alert(1)</script>",
    "\"quoted\" & 'single'",
    "Überraschungs-Ei",
    "日本語の猫",
    "</style><img src=x onerror=alert(1)>",
    "{{ 7 * 7 }}{% include 'style.css' %}",
]


def test_text_from_the_data_is_shown_and_never_run(page: Callable[..., str]) -> None:
    questions = ['Is <b>this</b> & "that" {{ 7 * 7 }}?']
    html = page(classes=EVIL, questions=questions)
    reader = Reader(html)
    assert questions[0] in reader.text["header"]
    for name in EVIL:
        assert name in reader.text["selections"]
    assert "script" not in reader.tags
    assert "<b>this" not in html
    assert "<img src=x" not in html


def luminance(colour: str) -> float:
    """Relative luminance of ``#rrggbb`` (WCAG 2)."""
    shares = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [share / 12.92 if share <= 0.04045 else ((share + 0.055) / 1.055) ** 2.4 for share in shares]
    return float(np.dot(linear, (0.2126, 0.7152, 0.0722)))


def contrast(one: str, other: str) -> float:
    """Contrast ratio of two colours (WCAG 2)."""
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_text_and_marks_stand_out_in_light_and_dark() -> None:
    style = (code.SOURCES / "report" / "style.css").read_text(encoding="utf-8")
    light, dark = (
        dict(re.findall(r"(--[\w-]+): (#[0-9a-f]{6});", block))
        for block in re.findall(r":root \{(.*?)\}", style, re.DOTALL)[:2]
    )
    assert light.keys() == dark.keys()
    for scheme in (light, dark):
        for paper in ("--paper", "--panel"):
            assert all(
                contrast(scheme[ink], scheme[paper]) >= 4.5 for ink in ("--ink", "--muted", "--accent")
            )
            marks = [colour for name, colour in scheme.items() if name.startswith("--series-")]
            assert len(marks) == len(SERIES)
            assert min(contrast(mark, scheme[paper]) for mark in marks) >= 2.5
        assert contrast(scheme["--good"], scheme["--good-paper"]) >= 4.5


# The answer


def test_the_answer_names_the_best_and_its_lead_by_seed(usual: Usual) -> None:
    text = words(Reader(usual.html).text["answer"])
    assert "Best on birds (top-1 accuracy, test part) reuse · uot 55.0 %" in text
    assert "± 1.0 over 3 seeds" in text
    assert "beyond the spread between seeds" in text
    # 4, 5 and 6 points: 5 ± 1, and t * 1 / sqrt(3) = 2.48 to each side.
    assert "Seed by seed that is 5.0 ± 1.0 points above plain" in text
    assert "+2.5 to +7.5, leaves out zero" in text
    # 3, 6 and 3 points above uot_clusters.
    assert (
        "Next comes reuse · uot_clusters, 4.0 ± 1.7 points behind (-0.3 to 8.3): within the spread." in text
    )
    assert "Choosing by the validation part gives the same." in text


def test_a_lead_within_the_spread_is_said_to_be_so(page: Callable[..., str]) -> None:
    recipes = {name: RECIPES[name] for name in ("plain", "reuse")}
    text = words(Reader(page(recipes=recipes, selections={"uot_clusters": True})).text["answer"])
    assert "reuse · uot_clusters 51.0 %" in text
    # 1, -1 and 3 points: 1 ± 2.
    assert "within the spread between seeds" in text
    assert (
        "1.0 ± 2.0 points above plain, but the 95 % interval of this difference, -4.0 to +6.0, holds zero"
        in text
    )
    assert "do not tell the two apart" in text
    assert "Next comes" not in text


def test_a_baseline_that_is_best_is_said_to_be_so(page: Callable[..., str]) -> None:
    recipes = {name: RECIPES[name] for name in ("scratch", "plain")}
    text = words(Reader(page(recipes=recipes)).text["answer"])
    assert "plain 50.0 %" in text
    assert "is that of the baseline itself: no other way did better" in text
    assert "Next comes scratch, 29.0 ± 1.7 points behind (24.7 to 33.3): beyond the spread." in text


def test_one_seed_is_no_evidence(page: Callable[..., str]) -> None:
    text = words(Reader(page(seeds=[1])).text["answer"])
    assert "one seed: spread unknown" in text
    assert "That is 5.0 points above plain. One seed says nothing of chance" in text
    assert "±" not in text
    assert "interval" not in text


def test_without_a_baseline_nothing_is_measured_against_one(page: Callable[..., str]) -> None:
    reader = Reader(page(recipes={name: RECIPES[name] for name in ("scratch", "reuse")}))
    assert "No recipe here is plain fine-tuning" in words(reader.text["answer"])
    assert "Difference" not in reader.text["comparison"]


def test_a_single_way_has_nothing_to_be_compared_with(page: Callable[..., str]) -> None:
    text = words(Reader(page(recipes={"plain": PLAIN}, seeds=[0])).text["answer"])
    assert "There is nothing to compare it with." in text


def test_what_validation_would_choose_is_said(usual: Usual) -> None:
    context = dict(usual.context)
    (_, (found,)), *_ = context["experiments"]
    scores = found.comparison.of(Way("coin", "none"))
    assert scores is not None
    context["experiments"] = [("", [replace(found, chosen=scores)])]
    text = words(Reader(render(context)).text["answer"])
    assert "Choosing by the validation part gives coin instead, with 49.0 % on test" in text


def test_many_targets_are_answered_in_a_table(page: Callable[..., str]) -> None:
    reader = Reader(page(backbones=["small", "moco"], targets=["birds", "pets"]))
    rows = [[words(cell) for cell in row] for row in reader.rows["answer"]]
    assert rows[0] == ["Target", "Backbone", "Best way", "Score %", "Difference", "Spread between seeds"]
    assert rows[1] == ["birds", "small", "reuse · uot", "55.0 ± 1.0", "+5.0 ± 1.0 +2.5 to +7.5", "beyond"]
    assert [row[:2] for row in rows[1:]] == [
        ["birds", "small"],
        ["pets", "small"],
        ["birds", "moco"],
        ["pets", "moco"],
    ]


def test_each_experiment_is_answered_by_its_own_ways(tmp_path: Path) -> None:
    inputs, settings = Results(tmp_path, accuracy=by_value, questions=["All?", "Only some?"]).make()
    settings["experiments"][1] |= {"recipes": ["plain", "coin"], "selections": []}
    write_report(inputs, tmp_path / "report.html", settings)
    text = words(Reader((tmp_path / "report.html").read_text(encoding="utf-8")).text["answer"])
    everything, some = text.split("Only some?")
    assert "reuse · uot 55.0 %" in everything
    assert "plain 50.0 %" in some
    assert "reuse" not in some
    other = narrowed(
        collect(inputs, settings)["comparisons"][0], {**settings["experiments"][0], "targets": []}
    )
    assert other is None


# The comparison


def test_the_comparison_shows_numbers_seeds_and_differences(usual: Usual) -> None:
    html = usual.html
    rows = [[words(cell) for cell in row] for row in Reader(html).rows["comparison"]][:7]
    assert [cell.split(",")[0] for cell in rows[0]] == [
        *("Recipe", "Selection", "Validation", "Test", "Single seeds", "Difference to plain", "Seeds")
    ]
    assert [row[:4] + row[5:] for row in rows[1:]] == [
        ["reuse · uot", "uot", "54.0 ± 1.0", "55.0 ± 1.0", "+5.0 ± 1.0 +2.5 to +7.5", "3"],
        ["reuse · uot_clusters", "uot_clusters", "50.0 ± 1.0", "51.0 ± 1.0", "+1.0 ± 2.0 -4.0 to +6.0", "3"],
        ["reuse · random", "random", "49.7 ± 1.2", "50.7 ± 1.2", "+0.7 ± 0.6 -0.8 to +2.1", "3"],
        ["plain", "", "49.0 ± 1.0", "50.0 ± 1.0", "baseline", "3"],
        ["coin", "", "48.0 ± 1.0", "49.0 ± 1.0", "-1.0 ± 1.0 -3.5 to +1.5", "3"],
        ["scratch", "", "20.0 ± 1.0", "21.0 ± 1.0", "-29.0 ± 1.7 -33.3 to -24.7", "3"],
    ]
    strip = re.search(r'<tr class="baseline">.*?<td class="strip">.*?</td>', html, re.DOTALL)
    assert strip is not None
    assert 'aria-label="50.0, 51.0, 49.0"' in strip[0]
    assert strip[0].count('<circle class="seed"') == 3


def test_other_metrics_are_shown_where_they_say_something_else(usual: Usual) -> None:
    text = words(Reader(usual.html).text["comparison"])
    assert "Other metrics on the test part" in text
    assert "Mean per-class accuracy %" in text
    assert "53.0 ± 1.0 1.450 ± 0.010" in text
    # Those of features stand apart, and keep their capitals.
    assert "Features by their true classes on the test part" in text
    assert "Recipe Selection S_Dbw Spread within classes" in text
    assert "0.950 ± 0.010 0.250 ± 0.000" in text


def test_without_a_test_part_validation_is_what_counts(page: Callable[..., str]) -> None:
    reader = Reader(page(parts=(8, 4, 0)))
    text = words(reader.text["answer"])
    assert "Best on birds (top-1 accuracy, validation part) reuse · uot 54.0 %" in text
    assert "Choosing by" not in text
    header = [words(cell) for cell in reader.rows["comparison"][0]]
    assert header[2] == "Validation"
    assert header[3].startswith("Single seeds, validation")


def test_comparisons_pair_seeds_whatever_their_order(tmp_path: Path) -> None:
    inputs, settings = Results(tmp_path, accuracy=by_value, seeds=(2, 0, 1)).make()
    (comparison,) = compare_ways(
        inputs.comparison, inputs.metrics, settings["main_metric"], ["absent", "plain"]
    )
    assert comparison.pair == Pair("small", "birds")
    assert comparison.baseline == Way("plain", "none")
    found = answer(comparison)
    assert str(found.best.way) == "reuse · uot"
    assert found.lead is not None
    assert found.lead.values == pytest.approx((0.04, 0.05, 0.06))
    half = T2 * 0.01 / 3**0.5
    assert found.lead.interval() == pytest.approx((0.05 - half, 0.05 + half))
    assert is_beyond_spread(found.lead)
    assert not is_beyond_spread(None)


def test_a_way_far_below_is_left_off_the_axis(usual: Usual) -> None:
    (comparison,) = usual.context["comparisons"]
    scale = seed_scale(comparison)
    assert (scale.low, scale.high) == (pytest.approx(0.48), pytest.approx(0.56))
    assert not scale.holds(0.21)
    assert scale.at(0.21) == scale.at(scale.low) == 4
    assert scale.at(scale.high) == 96
    differences = difference_scale(comparison)
    assert differences.holds(0)
    assert differences.holds(0.06)
    assert not differences.holds(-0.29)
    assert "Arrow: further left" in usual.html


@pytest.mark.parametrize(
    ("values", "ticks", "decimals"),
    [
        ((0.38, 0.49), (0.38, 0.40, 0.42, 0.44, 0.46, 0.48), 0),
        ((0.5, 0.5), (0.49, 0.495, 0.5, 0.505, 0.51), 1),
    ],
)
def test_an_axis_has_round_ticks(values: tuple[float, ...], ticks: tuple[float, ...], decimals: int) -> None:
    scale = scale_of(values)
    assert scale.ticks == pytest.approx(ticks)
    assert scale.decimals == decimals


# Training curves


def test_curves_are_means_over_seeds_of_the_epochs_that_all_have() -> None:
    first = Curve(np.array([1, 2, 3]), np.array([1.0, 2.0, 3.0]))
    second = Curve(np.array([2, 3, 4]), np.array([4.0, 3.0, 9.0]))
    line = mean_line(2, [first, second])
    assert line.epochs.tolist() == [2, 3]
    assert line.mean.tolist() == [3.0, 3.0]
    assert line.deviation == pytest.approx([2**0.5, 0.0])
    assert mean_line(0, [first]).deviation is None
    long = mean_line(0, [Curve(np.arange(1, 5001), np.arange(5000.0))])
    assert (len(long.epochs), long.epochs[0], long.epochs[-1]) == (120, 1, 5000)


def test_a_figure_takes_its_colours_from_the_page_and_keeps_its_ids_apart() -> None:
    line = Line(1, np.array([1, 2]), np.array([0.1, 0.2]), np.array([0.01, 0.01]), True)
    figure = panel([line], "What <it> shows", "left", share=True)
    assert figure.startswith(
        '<svg class="figure" viewBox="0 0 400 250" role="img" aria-label="What &lt;it&gt; shows">'
    )
    assert "var(--series-1)" in figure
    assert not re.findall(r"#[0-9a-f]{6}\b", figure)
    assert "font-family" not in figure
    assert "http" not in figure
    assert set(re.findall(r' id="([^"]*)"', figure)) == {
        *re.findall(r'href="#([^"]*)"', figure),
        *re.findall(r"url\(#([^)]*)\)", figure),
    }
    assert all(name.startswith("left-") for name in re.findall(r' id="([^"]*)"', figure))
    assert panel([line], "What <it> shows", "left", share=True) == figure


def test_a_first_stage_is_drawn_in_the_colour_of_the_recipe_that_follows_it(usual: Usual) -> None:
    context = usual.context
    (curves,) = context["training"]
    assert [panel.title for panel in curves.panels] == [
        *("Validation accuracy", "Training loss on the target", "Loss of the first stage, coin")
    ]
    assert curves.panels[1].note
    legend = {name: number for number, name in curves.legend}
    assert legend == {
        name: number
        for number, name in enumerate(
            ["plain", "scratch", "coin", "reuse · uot", "reuse · random", "reuse · uot_clusters"]
        )
    }
    assert f"var(--series-{legend['coin']})" in curves.panels[2].figure
    ((name, panels),) = context["pretraining"]
    assert (name, [panel.title for panel in panels]) == ("small", ["Accuracy", "Training loss"])


def test_many_ways_get_a_panel_each(page: Callable[..., str]) -> None:
    recipes = {f"plain{number}": PLAIN for number in range(9)}
    html = page(recipes={"plain": PLAIN, **recipes}, accuracy=lambda *keys: 0.5 + keys[-1] / 100)
    assert html.count('<div class="panels small">') == 1
    text = words(Reader(html).text["training"])
    assert "Validation accuracy; the baseline in grey." in text
    assert all(name in text for name in recipes)


def test_a_run_is_known_by_its_record_not_its_path(tmp_path: Path) -> None:
    inputs, _ = Results(tmp_path, accuracy=by_value).make()
    moved = inputs.runs[-1].rename(tmp_path / "elsewhere")
    run = read_run(moved)
    assert (run.pair, run.way, run.seed) == (Pair("small", "birds"), Way("reuse", "uot_clusters"), 2)


def test_an_old_history_beside_fetched_weights_is_not_shown(tmp_path: Path) -> None:
    Results(tmp_path, accuracy=by_value).make()
    folder = tmp_path / "backbones" / "small"
    assert read_backbone(folder).training is not None
    fetched = Provenance("pipeline.backbones", {"origin": "torchvision", "weights": "Some"}, "", {}, {})
    save_file(
        {"weight": np.zeros(1, np.float32)}, folder / "weights.safetensors", {METADATA_KEY: fetched.to_json()}
    )
    assert read_backbone(folder).training is None


# Selections


def test_selections_show_both_ends_of_their_ranking(tmp_path: Path) -> None:
    inputs, _ = Results(tmp_path, accuracy=by_value, classes=[f"class {n}" for n in range(20)]).make()
    units = read_units(inputs.units, read_datasets(inputs))
    uot, random, clusters = (
        read_selection(path, units, read_explanations(inputs.explanations), 6, 6)
        for path in inputs.selections
    )
    assert [unit.rank for unit in uot.most] == [1, 2, 3, 4, 5, 6]
    assert [unit.rank for unit in uot.least] == [20, 19, 18, 17, 16, 15]
    assert (uot.count, uot.images) == (3, 24)
    assert all(len(unit.examples) == 6 and unit.count == 8 and unit.nearest for unit in uot.most)
    # A random ranking has no least similar end, and what was not drawn is of no interest.
    assert [unit.rank for unit in random.most] == [1, 2, 3]
    assert random.least == []
    assert clusters.units["by"] == "cluster"
    assert clusters.most[0].name.startswith("cluster ")
    # 20 classes went to 5 clusters in turn: four classes in each, all equally common.
    assert [share for _, share in clusters.most[0].contents] == [0.25] * 3
    number = int(clusters.most[0].name.split()[1])
    assert [name for name, _ in clusters.most[0].contents] == [f"class {number + 5 * n}" for n in range(3)]


def test_clusters_of_an_unlabelled_source_have_no_class_names(tmp_path: Path) -> None:
    inputs, settings = Results(tmp_path, accuracy=by_value, labelled=False).make()
    context = collect(inputs, settings)
    (selections,) = context["selections"].values()
    assert [unit.contents for unit in selections[2].most] == [[]] * 5
    reader = Reader(render(context))
    assert "cluster 0" in reader.text["selections"]
    assert "no labels" in reader.text["ran"]


def test_nearest_is_by_the_angle_between_means(usual: Usual) -> None:
    inputs = usual.inputs
    units = read_units(inputs.units, read_datasets(inputs))
    selection = read_selection(inputs.selections[0], units, read_explanations(inputs.explanations), 6, 6)
    means = {found.dataset.name: found for found in units.values() if found.record.settings["by"] == "class"}
    for unit in selection.most:
        source = means["doodles"].means[means["doodles"].table["name"].to_pylist().index(unit.name)]
        cosines = means["birds"].means @ source
        assert unit.nearest == (f"birds {int(cosines.argmax())}", pytest.approx(float(cosines.max())))


def test_a_selection_without_its_units_is_refused(tmp_path: Path, usual: Usual) -> None:
    inputs, settings = usual.inputs, usual.settings
    with pytest.raises(PipelineError, match=r"uot\.parquet: its .* units are not among --units"):
        write_report(replace(inputs, units=inputs.units[:1]), tmp_path / "report.html", settings)
    assert not (tmp_path / "report.html").exists()


def test_a_selection_without_its_explanation_is_refused(tmp_path: Path, usual: Usual) -> None:
    inputs = replace(usual.inputs, explanations=usual.inputs.explanations[1:])
    with pytest.raises(PipelineError, match=r"uot\.parquet: what explains it is not among --explanation"):
        write_report(inputs, tmp_path / "report.html", usual.settings)


def test_the_plan_is_a_map_of_shares_where_the_method_has_one(usual: Usual) -> None:
    (selections,) = usual.context["selections"].values()
    shares, distances = (selection.explanation.heat for selection in selections[:2])
    assert shares.columns == ["birds 0", "birds 1", "birds 2", "birds 3"]
    assert [name for name, _ in shares.rows] == [unit.name for unit in selections[0].chosen]
    assert [[cell.text for cell in cells] for _, cells in shares.rows] == [["50"] * 4, ["25"] * 4, ["12"] * 4]
    assert [cells[0].strength for _, cells in shares.rows] == [100, 50, 25]
    assert shares.total is not None
    assert (shares.total[0], {cell.text for cell in shares.total[1]}) == ("all 3", {"88"})
    # Distances from 0.10 to 0.33, the least the strongest.
    assert [cell.text for cell in distances.rows[0][1]] == ["0.10", "0.11", "0.12", "0.13"]
    assert (distances.rows[0][1][0].strength, distances.rows[2][1][3].strength) == (100, 0)
    assert distances.total is None
    text = words(Reader(usual.html).text["selections"])
    assert text.count("The plan: share of each target class's mass") == 2
    assert text.count("this method makes no plan") == 1


def test_a_large_plan_is_cut_to_what_matters_most(usual: Usual) -> None:
    (selections,) = usual.context["selections"].values()
    units, classes = 60, 50
    shares = np.random.default_rng(0).permutation(units * classes).reshape(units, classes) / 1e6
    shares[50, :45] += 0.1  # a unit that is not shown gives most to the first 45 classes
    shares[50, 44] -= 0.05
    plan = pa.table(
        {
            "name": [f"unit {row}" for row in range(units) for _ in range(classes)],
            "target_name": [f"class {column}" for _ in range(units) for column in range(classes)],
            "share": shares.ravel(),
        }
    )
    chosen = frozenset(range(units))
    stable = dict.fromkeys(range(units), 1.0)
    explanation = replace(selections[0].explanation, plan=plan, selected=chosen, stability=stable)
    heat = explanation.heat
    assert [name for name, _ in heat.rows] == [f"unit {row}" for row in range(40)]
    least = {f"class {column}" for column in np.argsort(shares.sum(axis=0))[:10]}
    assert {f"class {column}" for column in range(44, 50)} < least
    assert set(heat.columns) == {f"class {column}" for column in range(classes)} - least
    assert heat.total is not None
    assert heat.total[0] == "all 60"
    marks = [True] * units + [False] * 10
    many = replace(selections[0], explanation=explanation, marks=marks, scores=[0.0] * 70)
    (key,) = usual.context["selections"]
    text = words(Reader(render({**usual.context, "selections": {key: [many]}})).text["selections"])
    assert "Shown: the first 40 of the 60 selected units; the 40 of the 50 classes" in text
    assert "Selected the first 3 of 60" in text


def test_margin_and_stability_are_said_in_words(usual: Usual) -> None:
    text = words(Reader(usual.html).text["selections"])
    (selections,) = usual.context["selections"].values()
    names = list(selections[0].explanation.names.values())
    # Six scores at equal distances from 0.5 to -3: every gap is the mean gap.
    assert (
        f"Rank 3, {names[2]}, and rank 4, {names[3]}, between which the selection ends, have scores 0.7 "
        "apart: 1 times the mean gap between neighbours in the ranking." in text
    )
    assert "drawn again 10 times within their classes, 1 of the 3 are selected every time" in text
    assert "the mean is 90 % of draws" in text
    assert f"half of the draws or more: {names[3]} (70 %), {names[4]} (60 %), {names[5]} (50 %)." in text
    assert [unit.stability for unit in selections[0].chosen] == pytest.approx([1.0, 0.9, 0.8])
    assert f"{names[1]}90 %" in text
    # A draw at random knows nothing of the target's images.
    assert [unit.stability for unit in selections[1].chosen] == [None] * 3
    assert text.count("neither margin nor stability") == 1


def test_a_close_call_is_named_so(usual: Usual) -> None:
    (key,) = usual.context["selections"]
    uot = usual.context["selections"][key][0]
    (margin,) = uot.explanation.margins
    close = replace(
        uot.explanation, margins=[replace(margin, below=(4, "owl", margin.above[2] - 0.0123456), gaps=0.05)]
    )
    context = {**usual.context, "selections": {key: [replace(uot, explanation=close)]}}
    text = words(Reader(render(context)).text["selections"])
    assert (
        "have scores 0.012 apart: 0.05 times the mean gap between neighbours in the ranking, a close call."
        in text
    )


def test_what_the_method_says_of_its_plan_is_shown_and_its_warning_first(page: Callable[..., str]) -> None:
    facts = {
        "iterations": 1234,
        "target_mass_carried": 0.0312,
        "warning": "the plan carries <almost> nothing",
    }
    reader = Reader(page(selections={"uot": False}, facts=facts))
    selected, answered = words(reader.text["selections"]), words(reader.text["answer"])
    assert "The plan converged in 1,234 iterations and carries 3.1 % of the target's mass." in selected
    assert "Warning The plan carries <almost> nothing." in selected
    assert answered.startswith(
        "Warning What uot reuses of doodles for birds, by small, is far from the target"
    )


def test_a_plan_without_warning_has_none(usual: Usual) -> None:
    assert "Warning" not in Reader(usual.html).text["selections"] + Reader(usual.html).text["answer"]


@pytest.mark.parametrize(
    ("marks", "stretches"),
    [
        ([True] * 3 + [False] * 7, [(0, 30)]),
        ([False] * 2 + [True] * 3 + [False] * 5, [(20, 30)]),
        ([False] * 8 + [True] * 2, [(80, 20)]),
        ([True] * 10, [(0, 100)]),
    ],
    ids=["best", "skip", "worst", "all"],
)
def test_the_profile_shades_the_selected_ranks(
    usual: Usual, marks: list[bool], stretches: list[tuple[float, float]]
) -> None:
    (key,) = usual.context["selections"]
    uot = usual.context["selections"][key][0]
    shown = replace(uot, marks=marks, scores=list(range(10, 0, -1)))
    assert shown.stretches == stretches
    html = render({**usual.context, "selections": {key: [shown]}})
    ((start, width),) = re.findall(r'class="area" x="([\d.]+)" y="0" width="([\d.]+)"', html)
    assert (float(start), float(width)) == stretches[0]


@pytest.mark.parametrize(
    ("method", "start"),
    [("nearest", "By the nearest target class"), ("greedy_ot", "By distance to"), ("label", "Found by name")],
)
def test_every_method_is_said_in_words(usual: Usual, method: str, start: str) -> None:
    (selections,) = usual.context["selections"].values()
    uot = replace(selections[0], settings={"method": method})
    assert uot.explained.startswith(f"3 of 6 classes, 24 images. {start}")
    assert replace(uot, units={"by": "sample"}).explained.startswith(f"3 of 6 images. {start}")


# Searches

RATES = (0.01, 0.1)
GRID = [
    ({"optimiser.learning_rate": rate, "optimiser.head_ratio": ratio, "reuse.weight": 1.0}, value)
    for (rate, ratio), value in {
        (0.01, 1): 0.9,
        (0.01, 10): 0.88,
        (0.1, 1): 0.8,
        (0.1, 10): 0.2,
    }.items()
]


def test_a_search_shows_its_whole_grid(page: Callable[..., str]) -> None:
    html = page(searches={"plain": GRID})
    reader = Reader(html)
    rows = [[words(cell) for cell in row] for row in reader.rows["searches"]]
    # 90 ± 3 % of 100 images, by sqrt(0.9 * 0.1 / 100).
    assert rows[0] == ["learning rate \\ head ratio", "1", "10"]
    assert rows[1:3] == [["0.01", "90.0", "88.0"], ["0.1", "80.0", "20.0"]]
    assert rows[3][:5] == ["Rank", "Learning rate", "Head ratio", "Validation %", "To the chosen"]
    assert [row[:5] for row in rows[4:]] == [
        ["1 chosen", "0.01", "1", "90.0 ± 3.0", ""],
        ["2", "0.01", "10", "88.0 ± 3.2", "-2.0 within"],
        ["3", "0.1", "1", "80.0 ± 4.0", "-10.0"],
        ["4", "0.1", "10", "20.0 ± 4.0", "-70.0"],
    ]
    text = words(reader.text["searches"])
    assert (
        "4 trials on 100 validation images. Chosen: learning rate 0.01, head ratio 1; 90.0 ± 3.0 %." in text
    )
    assert "1 other trial lies within one standard error of it" in text
    assert "The same in all trials: weight 1." in text
    # The axis goes from 80 - 4 to 90 + 3 %, since the last trial lies far below: (90 - 76) / 17.
    assert re.findall(r'class="marked" style="--strength: (\d+)%"><span>([\d.]+)', html) == [("82", "90.0")]
    assert "All 4 trials, best first" in text
    times = [[words(cell) for cell in row] for row in reader.rows["time"]]
    assert ["Search", "plain", "4", "200", "5.0 s", "20 s"] in [row[:6] for row in times]


def test_a_halved_search_says_how_far_its_trials_were_trained(tmp_path: Path) -> None:
    rungs = [(1, 0.3), (1, 0.3), (0, 0.1), (0, 0.1)]
    trials = [({"a.rate": rate}, value) for rate, value in ((1, 0.5), (2, 0.49), (3, 0.48), (4, 0.3))]
    results = Results(tmp_path, accuracy=by_value, searches={"plain": trials}, rungs=rungs)
    inputs, settings = results.make()
    reader = Reader(render(collect(inputs, settings)))
    rows = [[words(cell) for cell in row] for row in reader.rows["searches"]]
    assert rows[0][:5] == ["Rank", "Rate", "Budget %", "Validation %", "To the chosen"]
    assert [row[:5] for row in rows[1:]] == [
        ["1 chosen", "1", "30.0", "50.0 ± 5.0", ""],
        ["2", "2", "30.0", "49.0 ± 5.0", "-1.0 within"],
        ["3", "3", "10.0", "48.0 ± 5.0", "-2.0"],
        ["4", "4", "10.0", "30.0 ± 4.6", "-20.0"],
    ]
    text = words(reader.text["searches"])
    assert "4 trials up to 10.0 % of the budget, then 2 trials up to 30.0 % of the budget." in text
    assert "1 other trial lies within one standard error of it" in text


def test_a_search_over_other_than_two_keys_is_a_table(tmp_path: Path) -> None:
    trials = [
        ({"a.rate": a, "b.rate": b, "c": c}, 0.5 + 0.1 * a) for a in (1, 2) for b in (1, 2) for c in (1, 2)
    ]
    inputs, settings = Results(tmp_path, accuracy=by_value, searches={"plain": trials}).make()
    context = collect(inputs, settings)
    (search,) = context["searches"]
    assert search.heat is None
    assert search.names == ["a rate", "b rate", "c"]
    reader = Reader(render(context))
    assert len(reader.rows["searches"]) == 1 + 8
    assert "3 other trials lie within" in words(reader.text["searches"])
    assert "#searches" in {address for _, address in reader.loads}


def test_a_grid_with_holes_has_empty_cells(tmp_path: Path) -> None:
    inputs, _ = Results(tmp_path, accuracy=by_value, searches={"plain": GRID[:3]}).make()
    (search,) = read_searches(inputs.searches)
    assert search.heat is not None
    assert [[cell.text for cell in cells] for _, cells in search.heat.rows] == [
        ["90.0", "88.0"],
        ["80.0", ""],
    ]


def test_results_without_searches_have_no_such_section(usual: Usual) -> None:
    assert "searches" not in Reader(usual.html).text


# Recall


def test_recall_is_a_table_with_its_figures(page: Callable[..., str]) -> None:
    keys = {"backbone": "small", "source": "doodles", "target": "birds", "concept": "fowl"}
    counts = {"units": 59, "selected": 50}
    rows = [
        {**keys, **counts, "selection": name, "found": found, "recall": 100 * found / 59}
        for name, found in (("uot", 49), ("random", 5))
    ]
    reader = Reader(page(recalled=rows))
    shown = [[words(cell) for cell in row] for row in reader.rows["recall"]]
    assert shown == [
        ["Selection", "Selected", "At most", "small"],
        ["uot", "50", "84.75", "83.05"],
        ["random", "50", "84.75", "8.47"],
    ]
    assert "fowl 59 units of doodles, for birds" in words(reader.text["recall"])
    assert sum(image.startswith("data:image/svg+xml") for image in reader.images) == 2


# Claims


def claim(name: str, line: float, found: tuple[float, float, float], answer: str, **values: Any) -> Any:
    """A row of the table of claims; `found` is the estimate between the ends of its interval."""
    low, estimate, high = found
    return {
        **{"claim": name, "kind": "difference", "backbone": "small", "better": "reuse uot"},
        **{"baseline": "plain", "draws": 20, "images": 4000, "line": line, "estimate": estimate},
        **{"standard_error": 0.005, "level": 1 - 0.05 / 3, "low": low, "high": high, "p_value": 0.01},
        **{"p_holm": 0.03, "detectable": 0.01234, "answer": answer, "measure": "top1", "unit": "share"},
        **{"side": "above", "reason": None, **values},
    }


CLAIMED = [
    claim("Reuse helps", 0.0, (0.01, 0.03, 0.05), "replicated"),
    claim("Reuse is not worse", -0.005, (-0.03, -0.02, -0.01), "not replicated", kind="non_inferiority"),
    claim("It helps <b>more</b> with less", 0.0, (-0.01, 0.002, 0.02), "undecided", kind="trend"),
]


def test_claims_are_a_table_with_their_intervals(page: Callable[..., str]) -> None:
    html = page(claimed=CLAIMED)
    reader = Reader(html)
    text = words(reader.text["claims"])
    assert "3 claims: 1 replicated, 1 not replicated, 1 undecided." in text
    assert "so that with 95 % confidence no answer is wrong" in text
    rows = [[words(cell) for cell in row] for row in reader.rows["claims"]]
    assert rows[0] == [
        *("Claim", "Answer", "Estimate", "Needed", "Detectable", "Draws"),
        "Estimate and interval-20+2+4",
    ]
    images = "20 4,000 test images"
    assert [row[:6] for row in rows[1:]] == [
        [
            *("Reuse helps reuse uot - plain in points of top-1 accuracy, by small", "replicated"),
            *("+3.00 +1.00 to +5.00 98.33 % interval", "above 0.00", "1.23", images),
        ],
        [
            *("Reuse is not worse reuse uot - plain in points of top-1 accuracy, by small", "not replicated"),
            *("-2.00 -3.00 to -1.00 98.33 % interval", "above -0.50", "1.23", images),
        ],
        [
            "It helps <b>more</b> with less growth of (reuse uot - plain) with each halving of the training "
            "images in points of top-1 accuracy, by small",
            *("undecided", "+0.20 -1.00 to +2.00 98.33 % interval", "above 0.00", "1.23", images),
        ],
    ]
    assert "<b>more" not in html
    assert "#claims" in {address for _, address in reader.loads}
    assert "pipeline.claims" in reader.text["ran"]


def test_claims_about_other_numbers_have_tables_of_their_own(page: Callable[..., str]) -> None:
    over_draws = {"images": None, "draws": 10, "side": "below"}
    index = {**over_draws, "measure": "s_dbw", "unit": "1", "detectable": 0.0456}
    time = {**over_draws, "measure": "seconds", "unit": "share of baseline"}
    unknown = {**dict.fromkeys(("standard_error", "low", "high", "detectable")), "reason": "2 <b>draws"}
    html = page(
        claimed=[
            claim("It costs little", 0.05, (-0.01, 0.02, 0.04), "replicated", **time),
            claim("S_Dbw is lower", 0.0, (-0.31, -0.2, -0.09), "replicated", **index),
            claim("It is faster", 0.0, (0.0, -0.5, 0.0), "undecided", **time | unknown, p_value=1.0),
        ]
    )
    reader = Reader(html)
    rows = [[words(cell) for cell in row] for row in reader.rows["claims"]]
    assert [row[-1] for row in rows if row[0] == "Claim"] == [
        "Estimate and interval-50-40-30-20-100",
        "Estimate and interval-0.3-0.2-0.10.0",
    ]
    assert [row[:6] for row in rows if row[0] != "Claim"] == [
        [
            "It costs little reuse uot - plain in % of the baseline's training time, by small",
            *("replicated", "+2.00 -1.00 to +4.00 98.33 % interval", "below +5.00", "1.23", "10"),
        ],
        [
            "It is faster reuse uot - plain in % of the baseline's training time, by small",
            *("undecided 2 <b>draws", "-50.00", "below 0.00", "", "10"),
        ],
        [
            "S_Dbw is lower reuse uot - plain in S_Dbw, by small",
            *("replicated", "-0.200 -0.310 to -0.090 98.33 % interval", "below 0.000", "0.046", "10"),
        ],
    ]
    assert "2 &lt;b&gt;draws" in html


def test_each_answer_has_a_shape_of_its_own(page: Callable[..., str]) -> None:
    drawn = re.findall(r'<td class="strip"><svg class="s\d".*?</svg>', page(claimed=CLAIMED), re.DOTALL)[-3:]
    shapes = [re.findall(r"<(circle|rect)( class=\"hollow\")?", svg) for svg in drawn]
    assert shapes == [[("circle", "")], [("rect", "")], [("circle", ' class="hollow"')]]
    # From -3 to +5 points, with 4 % free at both ends: a point is 11.5 % wide, and zero at 4 + 3 * 11.5.
    lines = [re.findall(r'<line class="(\w+)" x1="([\d.]+)%" x2="([\d.]+)%"', svg) for svg in drawn]
    assert lines[0] == [
        *(("gridline", "38.5", "38.5"), ("reference", "38.5", "38.5"), ("bar", "50.0", "96.0"))
    ]
    assert lines[1][1:] == [("reference", "32.75", "32.75"), ("bar", "4.0", "27.0")]
    assert 'cx="73.0%" cy="50%"' in drawn[0]


# Domain gaps


def gap(recipe: str, measured: str, epoch: int, value: float, **values: Any) -> Any:
    """A row of the gap_and_accuracy table."""
    return {
        **{"backbone": "small", "target": "birds", "recipe": recipe, "epoch": epoch, "measured": measured},
        **{"seeds": 3, "gap": value, "gap_error": 0.123, "difference": value - 1, "difference_error": 0.5},
        **{"accuracy": None, "accuracy_error": None, **values},
    }


GAPS = [
    gap("plain", "uot", 0, 2.0),
    gap("plain", "uot", 20, 3.0),
    gap("reuse", "uot", 0, 2.0, accuracy=0.55, accuracy_error=0.01),
    gap("reuse", "uot", 20, 0.5, accuracy=0.55, accuracy_error=0.01),
    gap("reuse", "<i>random</i>", 0, 2.5, accuracy=0.5),
    gap("reuse", "<i>random</i>", 20, 0.75, accuracy=0.5),
]


def test_domain_gaps_are_drawn_against_accuracy_and_along_epochs(tmp_path: Path) -> None:
    inputs, settings = Results(tmp_path, accuracy=by_value, gaps=GAPS).make()
    context = collect(inputs, settings)
    (found,) = context["gaps"]
    assert (found.pair, found.metric) == (Pair("small", "birds"), "top1")
    assert [(drawn.recipe, [panel.title for panel in drawn.panels]) for drawn in found.drawn] == [
        ("plain", ["Gap along fine-tuning"]),
        (
            "reuse",
            [
                "Accuracy against the gap at the start",
                "Accuracy against the gap after epoch 20",
                "Gap along fine-tuning",
            ],
        ),
    ]
    plain, reuse = (drawn.panels[-1].figure for drawn in found.drawn)
    assert "var(--series-1)" in plain
    assert "var(--series-2)" not in plain
    assert "var(--series-2)" in reuse
    html = render(context)
    reader = Reader(html)
    assert len(reader.ids) == len(set(reader.ids))
    assert "<i>random" not in html
    text = words(reader.text["domain-gap"])
    assert "uot <i>random</i> plain Gap along fine-tuning" in text
    assert "UOT paper, Theorem 1" in text
    rows = [[words(cell) for cell in row] for row in reader.rows["domain-gap"]]
    assert rows[0] == [
        *("Recipe", "Selection", "Epoch", "Gap", "Difference of means", "Top-1 accuracy %", "Seeds")
    ]
    assert rows[2] == ["plain", "uot", "20", "3.00 ± 0.12", "2.00 ± 0.50", "", "3"]
    assert rows[4] == ["reuse", "uot", "20", "0.50 ± 0.12", "-0.50 ± 0.50", "55.0 ± 1.0", "3"]
    assert rows[6] == ["reuse", "<i>random</i>", "20", "0.75 ± 0.12", "-0.25 ± 0.50", "50.0", "3"]
    assert "#domain-gap" in {address for _, address in reader.loads}
    assert "pipeline.gap_and_accuracy" in reader.text["ran"]


def test_many_measured_selections_are_numbered(tmp_path: Path) -> None:
    # The last gaps are all but equal, so that their numbers must be moved apart.
    rows = [
        gap("reuse", f"tenth_{n}", epoch, 1 + 0.0001 * n + 0.1 * epoch, accuracy=0.5 + 0.01 * n)
        for n in range(10)
        for epoch in (0, 20)
    ]
    inputs, settings = Results(tmp_path, accuracy=by_value, gaps=rows).make()
    (found,) = read_gaps(inputs.domain_gap, settings["main_metric"])
    assert not found.few
    (start, _, along) = found.drawn[0].panels
    for figure in (start.figure, along.figure):
        assert not re.search(r"var\(--series-[02-9]\)", figure)
    # Numbers at lines' ends, not those of the axis, which are muted.
    placed = dict(re.findall(r'var\(--ink\)" x="[\d.]+" y="([\d.]+)".*>(\d+)</text>', along.figure))
    heights = {int(number): float(y) for y, number in placed.items()}
    assert heights.keys() == set(range(1, 11))
    assert max(np.diff([heights[number] for number in range(1, 11)])) < -10
    assert heights[10] > 10
    assert heights[1] < 210
    text = words(Reader(render(collect(inputs, settings))).text["domain-gap"])
    assert "1tenth_0 2tenth_1" in text
    assert "Standard errors are in the table." in text
    assert "All 20 measurements" in text


def test_a_scatter_shows_errors_where_they_are_known() -> None:
    point = Point(2, "7", (1.0, 0.1), (0.5, None))
    figure = scatter([point], "gap", "What <it> shows", "left", (400, 250))
    assert 'viewBox="0 0 400 250" role="img" aria-label="What &lt;it&gt; shows">' in figure
    assert ">7</text>" in figure
    assert "50 %" in figure
    assert not re.findall(r"#[0-9a-f]{6}\b", figure)
    both = scatter([point._replace(y=(0.5, 0.1))], "gap", "What", "left", (400, 250))
    bars = 'style="fill: none; stroke: var(--series-2); stroke-width: 1.2"'
    assert (figure.count(bars), both.count(bars)) == (1, 2)


# Features in the plane


def map_row(recipe: str | None, **values: Any) -> Any:
    """A row of the feature_maps table."""
    seed = None if recipe is None else 0
    return {
        **{"backbone": "small", "target": "birds", "selection": recipe and "none", "recipe": recipe},
        **{"seed": seed, "measured": recipe, "method": "tsne", "images": 400, "variance": None},
        **{"metric": "top1", "accuracy": None, "s_dbw": None, **values},
    }


UNTOUCHED = map_row(None, measured="linear probe", accuracy=0.4)
MAPS = [UNTOUCHED, map_row("plain", accuracy=0.5), map_row("<i>coin</i>", accuracy=0.525, s_dbw=0.284)]


def test_features_in_the_plane_are_shown_and_told(tmp_path: Path) -> None:
    inputs, settings = Results(tmp_path, accuracy=by_value, maps=MAPS).make()
    html = render(collect(inputs, settings))
    reader = Reader(html)
    text = words(reader.text["feature-maps"])
    assert "birds by small" in text
    assert "t-SNE keeps neighbours together" in text
    assert "Accuracy and S_Dbw (less is better) are of all test images" in text
    assert (
        'alt="400 test images by the untouched backbone, linear probe, top-1 accuracy 40.0 %; '
        "plain, top-1 accuracy 50.0 %; "
        '&lt;i&gt;coin&lt;/i&gt;, top-1 accuracy 52.5 %, S_Dbw 0.28"' in html
    )
    assert "<i>coin" not in html
    drawn = base64.b64encode((tmp_path / "feature_maps/small/birds.svg").read_bytes()).decode()
    assert reader.images.count(f"data:image/svg+xml;base64,{drawn}") == 1
    assert "#feature-maps" in {address for _, address in reader.loads}
    assert "pipeline.feature_maps" in reader.text["ran"]


def test_principal_components_are_not_taken_for_t_sne(tmp_path: Path) -> None:
    rows = [map_row("plain", accuracy=0.5, method="pca", variance=0.4)]
    inputs, settings = Results(tmp_path, accuracy=by_value, maps=rows).make()
    text = words(Reader(render(collect(inputs, settings))).text["feature-maps"])
    assert "t-SNE" not in text
    assert "Accuracy is of all test images" in text


def test_what_was_not_asked_has_no_section(usual: Usual) -> None:
    assert not {"claims", "domain-gap", "feature-maps"} & Reader(usual.html).text.keys()


def test_large_photographs_become_small_jpegs(tmp_path: Path) -> None:
    photograph = np.random.default_rng(0).integers(0, 256, (256, 256, 3), dtype=np.uint8)
    kind, _, content = _data_uri(photograph).partition(";base64,")
    image = Image.open(io.BytesIO(base64.b64decode(content)))
    assert (kind, image.size, image.format) == ("data:image/jpeg", (96, 96), "JPEG")
    drawing = np.zeros((28, 28, 3), np.uint8)
    kind, _, content = _data_uri(drawing).partition(";base64,")
    image = Image.open(io.BytesIO(base64.b64decode(content)))
    assert (kind, image.size, image.mode) == ("data:image/png", (28, 28), "L")


def test_results_without_selections_have_no_such_section(page: Callable[..., str]) -> None:
    reader = Reader(page(recipes={name: RECIPES[name] for name in ("scratch", "plain")}))
    assert "selections" not in reader.text
    assert "#selections" not in {address for _, address in reader.loads}


# What was run


def test_what_recipes_differ_in_comes_first(usual: Usual) -> None:
    reader = Reader(usual.html)
    rows = [[words(cell) for cell in row] for row in reader.rows["ran"]]
    assert rows[:5] == [
        ["Recipe", "Initialise", "Reuse", "From scratch"],
        ["scratch", "none", "none", "yes"],
        ["plain", "none", "none", "no"],
        ["coin", "coin, share 0.5, temperature 0.3", "none", "no"],
        ["reuse", "none", "labelled, head pretraining, weight 1", "no"],
    ]
    text = words(reader.text["ran"])
    assert "budget epochs 20 optimiser sgd, learning rate 0.05 batch size 32" in text
    assert "optimiser.momentum 0.9" in text
    assert "pre-trained here on doodles: supervised, epochs 20" in text
    assert ["birds", "target", "4", "32", "16", "16"] in rows
    assert ["doodles", "source", "6", "48", "24", "24"] in rows
    assert "torch 2.15.0" in text
    assert "0123456789abcdef" in text


def test_settings_in_words() -> None:
    assert described({"name": "coin", "share": 0.3, "hidden": None}) == "coin, share 0.3"
    assert described({"name": "sgd", "learning_rate": 0.05, "momentum": 0.9}, {"learning_rate": 0.05}) == (
        "sgd, learning rate 0.05"
    )
    assert described({"padding": 0}, {}) == "as by default"
    assert [described(value) for value in (True, None, 1e-10, [1, 2], "x")] == [
        "yes",
        "none",
        "1e-10",
        "1 · 2",
        "x",
    ]
    entries = {
        "a": {"seed": 1, "reuse": 1, "budget": 2, "x": {"y": 1}},
        "b": {"seed": 2, "reuse": 2, "budget": 2, "x": {"y": 1}},
    }
    assert differing(entries) == ["reuse"]
    assert shared(entries, {"a": {"budget": 2, "reuse": 1}, "b": {"x": {"y": 1}}}) == [
        ("budget", "2"),
        ("x", "y 1"),
    ]
    assert flat({"a": {"b": 1, "c": None}, "d": {}}) == [("a.b", "1"), ("a.c", "none"), ("d", "none")]


# Floors

FLOORS = [
    ("linear probe", "regularisation", 0, {1.0: (0.3, 0.31), 10.0: (0.4, 0.505)}),
    ("k-nearest neighbours", "neighbours", 0, {1: (0.25, 0.15), 5: (0.2, 0.1)}),
    ("plain, interpolated", "interpolation", 0, {0.0: (0.4, 0.4), 0.5: (0.5, 0.45), 1.0: (0.4, 0.3)}),
    ("plain, interpolated", "interpolation", 1, {0.0: (0.4, 0.4), 0.5: (0.5, 0.47), 1.0: (0.4, 0.3)}),
]


def test_floors_stand_apart_and_say_what_is_not_above_them(page: Callable[..., str]) -> None:
    html = page(floors=FLOORS)
    reader = Reader(html)
    rows = [[words(cell) for cell in row] for row in reader.rows["floors"]]
    assert rows == [
        ["Floor", "Chosen", "Among", "Validation %", "Test %"],
        ["linear probe", "C 10", "1, 10", "40.0", "50.5"],
        ["plain, interpolated", "alpha 0.5", "0.5", "50.0 ± 0.0", "46.0 ± 1.4"],
        ["k-nearest neighbours", "k 1", "1, 5", "25.0", "15.0"],
    ]
    assert "Not above every floor on the test part: plain, coin, scratch." in words(reader.text["floors"])
    assert 'aria-label="Accuracy along the interpolation from the backbone to the run"' in html
    # No other part of the page knows of them.
    assert "linear probe" not in words(reader.text["answer"]) + words(reader.text["comparison"])
    low = words(Reader(page(floors=FLOORS[1:2])).text["floors"])
    assert "Every recipe is above every floor on the test part; the best, reuse · uot, has 55.0 %." in low
    rows = Reader(page(floors=FLOORS, parts=(8, 0, 4))).rows["floors"]
    assert [words(cell) for cell in rows[0]] == ["Floor", "Chosen", "Among", "Test %"]
    assert "floors" not in Reader(page()).text


# Time


def test_time_is_added_over_jobs(usual: Usual) -> None:
    found = {(stage.name, stage.of): stage for stage in usual.context["stages"]}
    # Half a second and 100 images an epoch; coin's runs have 10 epochs, the others 20.
    assert {key: (stage.jobs, stage.images, stage.seconds) for key, stage in found.items()} == {
        ("Pre-training", "small"): (1, 2_000, 10.0),
        ("First stage", "coin"): (3, 3_000, 15.0),
        ("Fine-tuning", "scratch"): (3, 6_000, 30.0),
        ("Fine-tuning", "plain"): (3, 6_000, 30.0),
        ("Fine-tuning", "coin"): (3, 3_000, 15.0),
        ("Fine-tuning", "reuse"): (9, 18_000, 90.0),
    }
    assert found["Fine-tuning", "reuse"].rate == 200
    rows = [[words(cell) for cell in row] for row in Reader(usual.html).rows["time"]]
    assert rows[6][:6] == ["Fine-tuning", "reuse", "9", "200", "10 s", "1 min 30 s"]
    assert rows[7][0] == "All"
    assert rows[7][5] == "3 min 10 s"
    assert stages([], [], [], []) == []


def test_a_run_costs_its_first_stage_too(usual: Usual) -> None:
    rows = [[words(cell) for cell in row] for row in Reader(usual.html).rows["time"]][8:]
    assert rows == [
        ["Recipe", "Selection", "Stages", "Total"],
        ["scratch", "", "finetuning 10 s", "10 s ± 0.0 s"],
        ["plain", "", "finetuning 10 s", "10 s ± 0.0 s"],
        ["coin", "", "coin 5.0 s, then finetuning 5.0 s", "10 s ± 0.0 s"],
        *(
            [f"reuse · {name}", name, "finetuning 10 s", "10 s ± 0.0 s"]
            for name in ("uot", "random", "uot_clusters")
        ),
    ]
    run = replace(usual_run(usual, "plain"), times={"finetuning": Time(100, 13.0, "cpu")})
    (cost,) = costs([], [usual_run(usual, "plain"), run])
    assert (cost.total, cost.deviation) == (11.5, pytest.approx(np.std([10, 13], ddof=1)))
    assert costs([], [run])[0].deviation is None


def usual_run(usual: Usual, recipe: str) -> Run:
    """The first run of a recipe."""
    return next(run for run in map(read_run, usual.inputs.runs) if run.way.recipe == recipe)


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (0.04, "0.0 s"),
        (9.94, "9.9 s"),
        (59.4, "59 s"),
        (59.6, "1 min 00 s"),
        (3600, "1 h 00 min"),
        (90061, "25 h 01 min"),
    ],
)
def test_durations(seconds: float, shown: str) -> None:
    assert words(numbers.duration(seconds)) == shown


@pytest.mark.parametrize(
    ("value", "decimals", "signed", "shown"),
    [(0.19, 1, True, "+0.2"), (-0.04, 1, True, "0.0"), (-1.25, 2, False, "-1.25"), (0.04, 1, True, "0.0")],
)
def test_numbers(value: float, decimals: int, signed: bool, shown: str) -> None:
    assert words(numbers.number(value, decimals, signed)) == shown


@pytest.mark.parametrize(
    ("value", "error", "shown"),
    [
        (1.23456, 0.0456, ("1.235", "0.046")),
        (-0.004, 0.05, ("-0.004", "0.050")),
        (12345.6, 789.0, ("12346", "789")),
        (0.5, 0.0, ("0.500", "0.000")),
    ],
)
def test_a_value_is_as_precise_as_its_error(value: float, error: float, shown: tuple[str, str]) -> None:
    first, second = numbers.with_error(value, error)
    assert (words(first), second) == shown


# The command


def options_of(inputs: Inputs) -> list[str]:
    """The command's options for these inputs, those for a single table apart."""
    options = {
        "dataset": inputs.datasets,
        "images": inputs.images,
        "backbone": inputs.backbones,
        "units": inputs.units,
        "selection": inputs.selections,
        "explanation": inputs.explanations,
        "initialisation": inputs.initialisations,
        "run": inputs.runs,
        "floor": inputs.floors,
    }
    given = [
        part for option, paths in options.items() for path in paths for part in (f"--{option}", str(path))
    ]
    return ["--comparison", str(inputs.comparison), "--metrics", str(inputs.metrics), *given]


def test_the_command_writes_the_page_within_its_code_and_without_torch(tmp_path: Path, usual: Usual) -> None:
    command = [
        *(sys.executable, "-X", "importtime", "-m", "pipeline.report", str(tmp_path / "report.html")),
        *options_of(usual.inputs),
        *("--settings", json.dumps(usual.settings), "--code", str(code_digest("pipeline.report"))),
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if "|" in line}
    assert done.returncode == 0, done.stderr[-2000:]
    assert "matplotlib.figure" in imported
    assert not {"torch", "sklearn", "mlflow", "matplotlib.pyplot", "scipy.stats"} & imported
    assert (tmp_path / "report.html").read_text(encoding="utf-8") == usual.html


def test_the_command_takes_what_is_there_only_where_asked(tmp_path: Path) -> None:
    inputs, settings = Results(tmp_path, accuracy=by_value, claimed=CLAIMED, gaps=GAPS, maps=MAPS).make()
    maps = ("--feature-maps", str(inputs.feature_maps), "--feature-map-figures")
    command = [
        *(sys.executable, "-m", "pipeline.report", str(tmp_path / "report.html"), *options_of(inputs)),
        *("--claims", str(inputs.claims), "--domain-gap", str(inputs.domain_gap)),
        *(*maps, str(inputs.feature_map_figures)),
        *("--settings", json.dumps(settings), "--code", str(code_digest("pipeline.report"))),
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert (tmp_path / "report.html").read_text(encoding="utf-8") == render(collect(inputs, settings))


def test_the_template_belongs_to_the_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = code_digest("pipeline.report"), code_digest("pipeline.selection")
    copy = tmp_path / "pipeline"
    shutil.copytree(code.SOURCES, copy, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(code, "SOURCES", copy)

    def digests() -> tuple[Any, Any]:
        for remembered in (code._source, code._module):
            remembered.cache_clear()
        return code_digest("pipeline.report"), code_digest("pipeline.selection")

    try:
        assert digests() == before
        for name in ("template.html.j2", "style.css"):
            file = copy / "report" / name
            text = file.read_text(encoding="utf-8")
            file.write_text(text + "\n", encoding="utf-8")
            report, selection = digests()
            assert report != before[0]
            assert selection == before[1]
            file.write_text(text, encoding="utf-8")
        assert digests() == before
    finally:
        monkeypatch.undo()
        digests()
