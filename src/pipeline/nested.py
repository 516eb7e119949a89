"""Nested settings by key path, such as ``optimiser.learning_rate``."""

from collections.abc import Mapping
from typing import Any


def value_at(settings: Mapping[str, Any], path: str) -> Any:
    """The setting at a key path.

    Raises:
        KeyError: If there is none.
    """
    value: Any = settings
    for key in path.split("."):
        if not isinstance(value, Mapping):
            raise KeyError(path)
        value = value[key]
    return value


def with_values(settings: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Nested settings with those at the given key paths replaced.

    Raises:
        KeyError: With the key path that does not exist.
    """
    changed = dict(settings)
    for path, value in values.items():
        head, _, rest = path.partition(".")
        if head not in changed or (rest and not isinstance(changed[head], Mapping)):
            raise KeyError(path)
        try:
            changed[head] = with_values(changed[head], {rest: value}) if rest else value
        except KeyError:
            raise KeyError(path) from None
    return changed
