"""The schema for editors and the page for readers, both made from the settings models."""

import inspect
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import yaml
from pydantic.fields import FieldInfo

from pipeline.config.base import NAME_PATTERN, Settings
from pipeline.config.messages import PATTERNS
from pipeline.config.model import Config
from pipeline.config.training import Training

EXAMPLE, SCHEMA, PAGE = Path("config.yaml"), Path("config/schema.json"), Path("docs/config.md")
PREFACE = """\
# Configuration

<!-- Made from the models in src/pipeline/config by `make docs`: change those, not this page. -->

The workflow reads `config.yaml`, or what `snakemake --configfile FILE` names. Everything in it is
checked before any job starts, and `python -m pipeline.config check FILE` checks it alone. An editor
that speaks YAML finds `config/schema.json` through the first line of `config.yaml`; it then completes
keys and marks mistakes while you type.

Datasets, backbones, selections and recipes are entries under names of your choice; experiments cross
them by these names. A name has at most 60 letters, digits, `_`, `-` and `.`, the first a letter or a
digit. Where an entry can be of several kinds, one of its keys (`format`, `origin`, `method`, `by` or
`name`) says which, and so which other keys it takes.
"""
# Models that several sections build on, and the section of the page where their keys are.
SHARED: dict[type | None, str] = {Training: "training"}
BOUNDS = {
    "minimum": "at least",
    "exclusiveMinimum": "above",
    "maximum": "at most",
    "exclusiveMaximum": "below",
}
TYPES = {"boolean": "true or false", "integer": "whole number", "number": "number", "string": "text"}

Fields = dict[str, FieldInfo]
Model = type[Settings]


def write(root: Path) -> list[Path]:
    """Write both files below `root`, the folder of ``config.yaml``, and return their paths."""
    texts = {SCHEMA: schema(), PAGE: page((root / EXAMPLE).read_text(encoding="utf-8"))}
    for path, text in texts.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text, encoding="utf-8")
    return [root / path for path in texts]


def schema() -> str:
    """The JSON schema of `Config`."""
    dialect = {"$schema": "https://json-schema.org/draft/2020-12/schema"}
    return json.dumps(dialect | Config.model_json_schema(), indent=2) + "\n"


def page(example: str) -> str:
    """The Markdown page on every section and its keys.

    Args:
        example: The text of a config, whose sections are shown.
    """
    lines = PREFACE.splitlines()
    for name, field in Config.model_fields.items():
        lines += _section(name, field, _excerpt(example, name))
        if name == "recipes":
            lines += _section("training", FieldInfo(annotation=Training), [])
    return "\n".join(lines) + "\n"


def _excerpt(text: str, section: str) -> list[str]:
    found = re.search(rf"^{section}:.*?(?=^\S|\Z)", text, re.MULTILINE | re.DOTALL)
    return ["", "```yaml", *found[0].rstrip().splitlines(), "```"] if found else []


def _section(name: str, field: FieldInfo, excerpt: list[str]) -> Iterator[str]:
    """A section of the config, then each part of it that is a mapping of its own, under its key."""
    yield from ["", f"## {name}", "", _prose(field), *excerpt, *_keys(field)]
    waiting, seen = _parts(field), {name}
    while waiting:
        key = next(iter(waiting))
        part = waiting.pop(key)
        seen.add(key)
        yield from ["", f"### `{key}`", "", _prose(part), *_keys(part, key)]
        waiting |= {inner: value for inner, value in _parts(part).items() if inner not in seen}


def _prose(field: FieldInfo) -> str:
    """What a field is: the docstring of its model, or the description of a choice between several."""
    models = _models(field.annotation)
    return _docstring(models[0]) if len(models) == 1 else str(field.description)


def _keys(field: FieldInfo, part: str | None = None) -> Iterator[str]:
    """The keys of a model, or those that all kinds share and then the others, kind by kind.

    Args:
        field: A section of the config, or a part of one.
        part: The key of the part.
    """
    models = _models(field.annotation)
    if len(models) == 1:
        yield from _table(models[0], _own_fields(models[0]))
        return
    key, _ = _tag(models[0])
    yield from ["", f"`{key}` says which kind: {_alternatives(_tag(model)[1] for model in models)}."]
    shared = _shared_fields(models[0])
    if shared:
        others = [_tag(model)[1] for model in models if model.__base__ is not models[0].__base__]
        but = f" but {_alternatives(others)}" if others else ""
        yield from ["", f"Keys of every kind{but}:", *_table(models[0], shared)]
    for model in models:
        kind = f"{key}: {_tag(model)[1]}"
        title = f"#### `{part}: {{{kind}}}`" if part else f"### `{kind}`"
        yield from ["", title, "", _docstring(model)]
        # Keys that some kinds share are shown with each of them.
        own = _own_fields(model) if shared else _shared_fields(model) | _own_fields(model)
        yield from _table(model, {name: inner for name, inner in own.items() if name != key})


def _table(model: Model, fields: Fields) -> Iterator[str]:
    section = SHARED.get(model.__base__)
    if section:
        yield from ["", f"Takes the keys of [{section}](#{section}) as well."]
    if not fields:
        return
    yield from ["", "| Key | Value | Default | Meaning |", "|---|---|---|---|"]
    properties = model.model_json_schema()["properties"]
    for key, field in fields.items():
        meaning = field.description or "Which kind."
        yield f"| `{key}` | {_value(key, properties[key])} | {_default(field)} | {meaning} |"


def _value(key: str, value: dict[str, Any]) -> str:
    """What a key takes, in words; of a mapping of its own, the link to its part of the page."""
    match value:
        case {"$ref": _} | {"oneOf": _}:
            return f"[{key}](#{key})"
        case {"anyOf": [first, {"type": "null"}]}:
            return f"{_value(key, first)}, or null"
        case {"anyOf": [{"type": _}, *_]}:
            return "value"
        case {"const": choice}:
            return _alternatives([choice])
        case {"enum": choices}:
            return _alternatives(choices)
        case {"prefixItems": [first, *_] as items}:
            return f"list of {len(items)} {_many(_value(key, first))}"
        case {"items": item}:
            some = "one or more " if value.get("minItems") else ""
            return f"list of {some}{_many(_value(key, item))}"
        case {"additionalProperties": dict(item)}:
            return f"mapping to {_many(_value(key, item))}"
        case {"patternProperties": dict(by_name)}:
            (item,) = by_name.values()
            return f"mapping of names to {_many(_value(key, item))}"
        case {"pattern": pattern}:
            return "name" if pattern == NAME_PATTERN else PATTERNS[pattern]
    limits = [f"{words} {value[bound]}" for bound, words in BOUNDS.items() if bound in value]
    return ", ".join([TYPES[value["type"]], *limits])


def _many(value: str) -> str:
    """``numbers, each above 0`` for ``number, above 0``."""
    noun, _, limits = value.partition(", ")
    nouns = noun.replace("list of", "lists of") if noun.startswith("list of") else f"{noun}s"
    return f"{nouns}, each {limits}" if limits else nouns


def _alternatives(choices: Iterable[Any]) -> str:
    *most, last = [f"`{choice}`" for choice in choices]
    return f"{', '.join(most)} or {last}" if most else last


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    if isinstance(value, Settings):
        value = value.model_dump(mode="json", exclude_defaults=True)
        if not value:
            return "its defaults"
    value = list(value) if isinstance(value, tuple) else value
    text = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=1000)
    text = text.removesuffix("...\n").strip()
    return f"`{text}`"


def _docstring(model: Model) -> str:
    return inspect.cleandoc(model.__doc__ or "").replace("``", "`")


def _models(annotation: Any) -> list[Model]:
    """The settings models in a type, in its order."""
    if inspect.isclass(annotation) and issubclass(annotation, Settings):
        return [annotation]
    return [model for part in get_args(annotation) for model in _models(part)]


def _parts(field: FieldInfo) -> Fields:
    """The keys inside a field that are mappings of their own."""
    keys: Fields = {}
    for model in _models(field.annotation):
        keys |= _shared_fields(model) | _own_fields(model)
    return {key: inner for key, inner in keys.items() if _models(inner.annotation)}


def _own_fields(model: Model) -> Fields:
    return {name: field for name, field in model.model_fields.items() if name in model.__annotations__}


def _shared_fields(model: Model) -> Fields:
    """Fields of the class that the kinds of a union have in common, if it has no section of its own."""
    base = model.__base__
    return {} if base is None or base is Settings or base in SHARED else _own_fields(base)


def _tag(model: Model) -> tuple[str, str]:
    """The key that says which kind of a union a model is, and its value there."""
    for name, field in model.model_fields.items():
        values = get_args(field.annotation) if get_origin(field.annotation) is Literal else ()
        if len(values) == 1:
            return name, values[0]
    raise LookupError(f"{model.__name__} is no kind of a union")
