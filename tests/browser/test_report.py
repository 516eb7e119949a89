"""The report as a browser shows it: whole, in light and dark, on a desk and on a phone."""

import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from html import unescape
from pathlib import Path
from typing import Any

import pytest

from pipeline.report.page import write_report

from ..made_up import RECIPES, Results

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--enable-logging=stderr",
    "--force-prefers-reduced-motion",
]
LIGHT, DARK = "--blink-settings=preferredColorScheme=1", "--blink-settings=preferredColorScheme=0"
# What a reader could not tell us: asked of the page by a script that only the tests put in.
PROBE = """
<script>
addEventListener("load", () => {
  const wide = [...document.querySelectorAll("body *")].filter((element) => {
    const box = element.getBoundingClientRect();
    // What lies in a heat map is scrolled to; the box around it is within the window.
    return box.width && box.right > innerWidth + 1 && !element.closest("svg, .scroll > *");
  });
  const text = (selector) => [...document.querySelectorAll(selector)].map((e) => e.innerText.trim());
  parent.postMessage({
    width: innerWidth,
    scrollWidth: document.documentElement.scrollWidth,
    wide: wide.map((element) => element.outerHTML.slice(0, 80)),
    images: [...document.images].map((image) => image.complete && image.naturalWidth),
    headings: text("h1, h2"),
    rows: document.querySelectorAll(".scores tbody tr").length,
    heats: [...document.querySelectorAll(".heat")].map((e) => e.querySelectorAll("tbody td").length),
    cells: [...document.querySelectorAll(".heat [style]")].map((e) => getComputedStyle(e).backgroundColor),
    figures: [...document.querySelectorAll("svg.figure")].map((e) => e.getBoundingClientRect().width),
    dots: [...document.querySelectorAll("circle.seed")].map((e) => getComputedStyle(e).fill),
    paper: getComputedStyle(document.body).backgroundColor,
    ink: getComputedStyle(document.querySelector("h1")).color,
    label: getComputedStyle(document.querySelector("svg.figure text")).fill,
  }, "*");
});
</script>
"""
# A window has at least 500 pixels, a frame as many as it is given.
FRAME = """<!DOCTYPE html><title>none</title><body style="margin: 0">
<script>addEventListener("message", (event) => document.title = JSON.stringify(event.data));</script>
<iframe src="{page}" style="border: 0; width: {width}px; height: {height}px"></iframe>
"""
GRID = [
    ({"optimiser.learning_rate": rate, "reuse.weight": weight}, 0.5 - 0.02 * weight + 0.3 * rate)
    for rate in (0.01, 0.03, 0.1)
    for weight in (0.3, 1.0, 3.0)
]
RECALLED = [
    {
        **{"backbone": "small", "source": "doodles", "target": "birds", "selection": name, "concept": "fowl"},
        **{"units": 10, "selected": 3, "found": found, "recall": 10.0 * found},
    }
    for name, found in (("uot", 3), ("random", 1))
]
CLAIMED = [
    {
        **{"claim": f"Reuse of similar classes helps {name}", "kind": kind, "backbone": "small"},
        **{"better": "reuse random_0 ... random_19", "baseline": "plain", "draws": 20, "images": 4000},
        **{"line": line, "estimate": (low + high) / 2, "standard_error": 0.005, "level": 0.9833},
        **{"low": low, "high": high, "p_value": 0.01, "p_holm": 0.03, "detectable": 0.012, "answer": answer},
        **{"measure": "top1", "unit": "share", "side": "above", "reason": None},
    }
    for name, kind, line, low, high, answer in (
        ("", "difference", 0.0, 0.008, 0.034, "replicated"),
        (
            "as_a_claim_of_one_very_long_word_that_no_line_of_a_table_holds",
            "trend",
            0.0,
            -0.01,
            0.02,
            "undecided",
        ),
        ("by one point", "difference", 0.01, -0.015, 0.007, "not replicated"),
    )
]
GAPS = [
    {
        **{"backbone": "small", "target": target, "recipe": recipe, "epoch": epoch, "measured": f"part {n}"},
        **{"seeds": 5, "gap": 1 + 0.3 * n + 0.02 * epoch, "gap_error": 0.05, "difference": 0.2 + 0.1 * n},
        **{"difference_error": 0.02, "accuracy": 0.56 - 0.02 * n if recipe == "reuse" else None},
        "accuracy_error": 0.004 if recipe == "reuse" else None,
    }
    for target, parts in (("birds", 3), ("pets", 10))
    for recipe in ("plain", "reuse")
    for n in range(parts)
    for epoch in (0, 20)
]
Ask = Callable[..., dict[str, Any]]

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")


def accuracy(backbone: str, target: str, recipe: str, selection: str, seed: int) -> float:
    base = {"scratch": 0.31, "plain": 0.46, "coin": 0.44}.get(recipe.partition("_")[0], 0.47)
    return base + {"uot": 0.01, "random": 0.02}.get(selection, 0) + 0.007 * ((seed * 7 + len(recipe)) % 5)


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where screenshots are kept."""
    folder = Path(os.environ.get("GRAFTUNE_TEST_ARTIFACTS") or tmp_path_factory.mktemp("screenshots"))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Reports of an ordinary run, of long names and many ways, of a study, and of a single run."""
    names = ["a_class_name_without_any_space_that_goes_on_and_on_and_on", *(f"class {n}" for n in range(15))]
    many = {f"{name}_{'long' * number}": RECIPES[name] for name in RECIPES for number in range(4)}
    wanted: dict[str, dict[str, Any]] = {
        "ordinary": {
            "classes": [f"class {number}" for number in range(16)],
            "seeds": range(5),
            "searches": {"plain": GRID},
            "facts": {"iterations": 12, "target_mass_carried": 0.05, "warning": "the plan carries little"},
            "recalled": RECALLED,
        },
        "crowded": {
            "classes": names,
            "recipes": {"plain": RECIPES["plain"], **many},
            "backbones": ["a_small_resnet_of_three_stages", "moco"],
            "targets": ["birds", "a_target_of_many_kinds_of_animals_at_once"],
        },
        "study": {
            "recipes": {name: RECIPES[name] for name in ("plain", "reuse")},
            "targets": ["birds", "pets"],
            "claimed": CLAIMED,
            "gaps": GAPS,
        },
        "single": {"recipes": {"plain": RECIPES["plain"]}, "seeds": [0]},
    }
    pages = {}
    for name, values in wanted.items():
        folder = tmp_path_factory.mktemp(name)
        inputs, settings = Results(folder, accuracy=accuracy, **values).make()
        pages[name] = folder / "report.html"
        write_report(inputs, pages[name], settings)
    return pages


def chromium(page: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    assert CHROMIUM is not None
    profile = f"--user-data-dir={page.parent / f'profile {len(list(page.parent.iterdir()))}'}"
    command = [CHROMIUM, *FLAGS, profile, *flags, page.as_uri()]
    return subprocess.run(command, capture_output=True, timeout=120, check=True, text=True)


def framed(page: Path, folder: Path, width: int, height: int) -> Path:
    """A page that shows another one at a given size."""
    frame = folder / "frame.html"
    frame.write_text(FRAME.format(page=page.as_uri(), width=width, height=height), encoding="utf-8")
    return frame


@pytest.fixture
def ask(tmp_path: Path) -> Ask:
    """A function that opens a copy of a page with the probe in it and gives the answers."""

    def run(page: Path, width: int, scheme: str = LIGHT) -> dict[str, Any]:
        html = page.read_text(encoding="utf-8")
        html, removed = re.subn(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", html)
        assert removed == 1
        copy = tmp_path / "probed.html"
        copy.write_text(html.replace("</body>", f"{PROBE}</body>"), encoding="utf-8")
        shown = chromium(framed(copy, tmp_path, width, 900), scheme, "--dump-dom").stdout
        title = re.search(r"<title>(.*?)</title>", shown, re.DOTALL)
        assert title is not None
        answers: dict[str, Any] = json.loads(unescape(title[1]))
        assert answers["width"] == width
        return answers

    return run


def test_the_page_is_whole(reports: dict[str, Path], ask: Ask) -> None:
    found = ask(reports["ordinary"], 1280)
    assert found["headings"] == [
        *("Which way is best?", "Comparison", "Searches", "Training curves", "Selections"),
        *("Recall", "What was run", "Time"),
    ]
    assert found["rows"] == 6 + 9
    # 4 classes of the target; two ends of 6 units by classes, 3 drawn units, 5 clusters, 6 images each; one
    # of each of 3 selected units; two figures of recall.
    assert len(found["images"]) == 4 + 6 * (12 + 3 + 5) + 3 * 3 + 2
    assert set(found["images"][:-2]) == {12}
    assert min(found["images"][-2:]) > 0
    assert found["heats"] == [9, 12, 12, 12]
    assert len(set(found["cells"])) > 8
    assert len(found["figures"]) == 5
    assert min(found["figures"]) > 300
    assert len(found["dots"]) == (5 + 6 - 2) * 5  # scratch is off both axes


def test_a_study_shows_its_claims_and_domain_gaps(reports: dict[str, Path], ask: Ask) -> None:
    found = ask(reports["study"], 1280)
    assert found["headings"] == [
        *("Which way is best?", "Comparison", "Claims", "Training curves", "Selections"),
        *("Domain gap", "What was run", "Time"),
    ]
    assert found["rows"] == 2 * 4 + 3
    # Two of training on each target, two of pre-training; the gap along each of two recipes, and of reuse
    # two against accuracy.
    assert len(found["figures"]) == 2 * 2 + 2 + 2 * (2 + 2)
    assert min(found["figures"]) > 300


@pytest.mark.parametrize("width", [400, 760, 1280])
@pytest.mark.parametrize("name", ["ordinary", "crowded", "study", "single"])
def test_nothing_is_wider_than_the_window(reports: dict[str, Path], ask: Ask, name: str, width: int) -> None:
    found = ask(reports[name], width)
    assert found["wide"] == []
    assert found["scrollWidth"] <= width


def test_colours_follow_the_scheme(reports: dict[str, Path], ask: Ask) -> None:
    light, dark = (ask(reports["ordinary"], 1280, scheme) for scheme in (LIGHT, DARK))
    assert (light["paper"], dark["paper"]) == ("rgb(255, 255, 255)", "rgb(18, 23, 29)")
    for part in ("ink", "label"):
        assert light[part] != dark[part]
    assert len(set(light["dots"])) == 5  # each way its own, scratch being off the axes
    assert set(light["dots"]).isdisjoint(dark["dots"])


@pytest.mark.parametrize(
    ("name", "width", "height", "scheme"),
    [
        ("ordinary", 1280, 4400, LIGHT),
        ("ordinary", 1280, 4400, DARK),
        ("ordinary", 400, 9000, LIGHT),
        ("crowded", 1280, 9000, LIGHT),
        ("study", 1280, 8000, LIGHT),
        ("study", 1280, 8000, DARK),
        ("study", 400, 14000, LIGHT),
    ],
    ids=["light", "dark", "narrow", "crowded", "study", "study_dark", "study_narrow"],
)
def test_the_page_as_it_is_opens_without_complaint(
    reports: dict[str, Path],
    artifacts: Path,
    request: pytest.FixtureRequest,
    tmp_path: Path,
    name: str,
    width: int,
    height: int,
    scheme: str,
) -> None:
    screenshot = artifacts / f"report_{request.node.callspec.id}.png"
    page = framed(reports[name], tmp_path, width, height)
    done = chromium(page, scheme, f"--window-size={width},{height}", f"--screenshot={screenshot}")
    assert "CONSOLE" not in done.stderr
    assert screenshot.stat().st_size > 50_000


def test_a_page_that_would_load_something_is_refused_it(reports: dict[str, Path], tmp_path: Path) -> None:
    """The test above can fail, and the policy in the page holds."""
    page = tmp_path / "report.html"
    html = reports["single"].read_text(encoding="utf-8")
    page.write_text(
        html.replace("</body>", "<script>document.title = 'run'</script></body>"), encoding="utf-8"
    )
    done = chromium(page, "--dump-dom")
    assert "CONSOLE" in done.stderr
    assert "<title>run</title>" not in done.stdout
