"""Files that must agree with one another."""

import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("data/*.md")])


def test_the_conda_environment_has_the_pins_of_the_lock() -> None:
    environment = yaml.safe_load((ROOT / "envs" / "graftune.yaml").read_text())
    pins = (ROOT / "requirements.lock").read_text().split("\n")
    assert environment["dependencies"][-1]["pip"] == [pin for pin in pins if pin]


def test_the_lock_holds_no_address() -> None:
    assert not re.search(r"://|--|@ ", (ROOT / "requirements.lock").read_text())


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_between_pages_resolve(page: Path) -> None:
    links = re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text(encoding="utf-8"))
    assert [link for link in links if not (page.parent / link).exists()] == []


@pytest.mark.parametrize("preset", sorted(ROOT.glob("config/presets/*.yaml")), ids=lambda path: path.stem)
def test_presets_are_valid(preset: Path) -> None:
    from pipeline.config.loading import load_config

    config = load_config(preset)
    assert config.runs() or config.rankings()
