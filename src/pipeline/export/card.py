"""The card of a model: what its record, its metrics and what it was made from say, and nothing else."""

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from pipeline.backbones.backbone import Backbone
from pipeline.export.origins import Origin, Origins
from pipeline.provenance import Provenance
from pipeline.report import numbers
from pipeline.report.described import described, flat, words
from pipeline.tables import read_samples

if TYPE_CHECKING:
    from pipeline.export.onnx_file import Agreement

SPLITS = ("train", "validation", "test")
# Characters that mean something in Markdown or HTML; an underscore does at the end of a word.
SPECIAL = re.compile(r"[\\`*\[\]<>|&#~]|(?<!\w)_|_(?!\w)")
# Of a backbone: where its file lay is no one else's.
PLACES = ("path",)


@dataclass(frozen=True)
class Facts:
    """What a card is made of.

    Attributes:
        classifier: The model.
        class_names: In the order of its outputs.
        record: What made it.
        origins: What it was made from, as far as that was found.
        metrics: By part and name; empty where there are none.
        agreement: How far the ONNX file is from the model; None without one.
    """

    classifier: Backbone
    class_names: list[str]
    record: Provenance
    origins: Origins
    metrics: Mapping[str, Mapping[str, float]]
    agreement: "Agreement | None"


@dataclass(frozen=True)
class Data:
    """A dataset: the part that it played, its name, images by split, and the settings it was read by."""

    role: str
    name: str
    images: dict[str, int]
    settings: list[tuple[str, str]]


def card(facts: Facts) -> str:
    """The card as Markdown; text from settings and data is escaped."""
    # Not HTML: `plain` escapes what Markdown knows, HTML among it.
    environment = Environment(  # noqa: S701
        loader=FileSystemLoader(Path(__file__).parent),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "plain": plain,
        "line": lambda text: " ".join(str(text).split()),
        "described": described,
        "words": words,
        "metric_name": numbers.metric_name,
        "value_of": numbers.value_of,
        "count": numbers.count,
    }
    return environment.get_template("card.md.j2").render(_context(facts))


def plain(text: Any) -> str:
    """Text on one line that Markdown shows as it is.

    >>> plain("a|b <i> my_name_")
    'a\\\\|b \\\\<i\\\\> my_name\\\\_'
    """
    return SPECIAL.sub(lambda found: "\\" + found[0], " ".join(str(text).split()))


def _context(facts: Facts) -> dict[str, Any]:
    classifier, settings = facts.classifier, facts.record.settings
    description, run = classifier.description, settings["run"]
    architecture = description.architecture
    return {
        "facts": facts,
        "run": run,
        "parameters": sum(value.numel() for value in classifier.parameters()),
        "architecture": architecture,
        "layer": classifier.classification_layer if architecture["name"] == "torchvision" else None,
        "preprocessing": description.preprocessing,
        "metric_names": list(
            dict.fromkeys(name for values in facts.metrics.values() for name in values if name != "images")
        ),
        "shares": numbers.SHARES,
        "settings": {key: value for key, value in settings.items() if key != "run"},
        "data": _data(facts.origins, run["target"]),
        "backbone": _settings(facts.origins.backbone),
        "selection": _settings(facts.origins.selection),
        "chosen_on_validation": _chosen_on_validation(settings),
    }


def _data(origins: Origins, target: str) -> list[Data]:
    roles = [
        ("target, fine-tuned on", origins.target),
        ("source, reused", origins.source),
        ("pre-training of the backbone", origins.pretraining),
    ]
    found = []
    for role, origin in roles:
        if origin is not None:
            counts = Counter(read_samples(origin.path).split.tolist())
            images = {split: counts[split] for split in SPLITS}
            found.append(Data(role, origin.path.parent.name, images, _settings(origin)))
    return found or [Data("target, fine-tuned on", target, {}, [])]


def _settings(origin: Origin | None) -> list[tuple[str, str]]:
    """Every setting of what made a file, as a dotted key and its value."""
    if origin is None:
        return []
    leaves = flat({key: value for key, value in origin.record.settings.items() if key not in PLACES})
    return [(key, value) for key, value in leaves if value != "none"]


def _chosen_on_validation(settings: Mapping[str, Any]) -> list[str]:
    """What the validation part has decided, so that its metrics flatter the model."""
    chosen = [f"the checkpoint ({settings['checkpoint']})"] if settings.get("checkpoint") == "best" else []
    return chosen + list(settings.get("chosen", []))
