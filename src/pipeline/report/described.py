"""Settings in words: what differs first, what was changed from the defaults next."""

from collections.abc import Iterable, Mapping
from typing import Any

from pipeline.provenance import canonical_json

# Named already, or without effect on the result.
UNSAID = ("run", "name", "seed")
# What recipes are composed of comes before how they are trained.
FIRST = ("initialise", "objective", "reuse", "from_scratch", "budget", "optimiser", "schedule")


def described(value: Any, written: Any = None) -> str:
    """One setting as a reader would say it: ``coin, share 0.3``.

    Args:
        value: The resolved setting.
        written: The same without defaults; only its keys are said of a group. All keys by default.
    """
    if isinstance(value, Mapping):
        return _group(value, written if isinstance(written, Mapping) else value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return " · ".join(described(item) for item in value) or "none"
    if isinstance(value, float):
        return f"{value:g}"
    return "none" if value is None else str(value)


def _group(value: Mapping[str, Any], written: Mapping[str, Any]) -> str:
    kept = {key: item for key, item in value.items() if key in written and item is not None}
    name = [str(value["name"])] if "name" in value else []
    others = [
        f"{words(key)} {described(item, written[key])}" for key, item in kept.items() if key not in UNSAID
    ]
    return ", ".join([*name, *others]) or "as by default"


def words(key: str) -> str:
    """A key as words."""
    return key.replace("_", " ")


def differing(entries: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Keys whose value is not the same in all entries."""
    keys = _ordered(key for entry in entries.values() for key in entry)
    return [key for key in keys if len({canonical_json(entry.get(key)) for entry in entries.values()}) > 1]


def _ordered(keys: Iterable[str]) -> list[str]:
    found = dict.fromkeys(key for key in keys if key not in UNSAID)
    return [key for key in FIRST if key in found] + [key for key in found if key not in FIRST]


def shared(
    entries: Mapping[str, Mapping[str, Any]], written: Mapping[str, Mapping[str, Any]]
) -> list[tuple[str, str]]:
    """What all entries have the same, where it is not the default: key in words and value."""
    if not entries:
        return []
    apart = set(differing(entries))
    first = next(iter(entries.values()))
    changed: dict[str, Any] = {}
    for name in entries:
        changed |= {key: value for key, value in written.get(name, {}).items() if key not in changed}
    kept = [key for key in _ordered(first) if key in changed and key not in apart]
    return [(words(key), described(first[key], changed[key])) for key in kept]


def flat(value: Any, prefix: str = "") -> list[tuple[str, str]]:
    """Every leaf of nested settings, as a dotted key and its value."""
    if isinstance(value, Mapping) and value:
        return [leaf for key in value for leaf in flat(value[key], f"{prefix}{'.' if prefix else ''}{key}")]
    if value is None or isinstance(value, Mapping):
        return [(prefix, "none")]
    return [(prefix, described(value))]
