"""A YAML file in which no key comes twice; PyYAML alone would keep the last without a word."""

from pathlib import Path
from typing import Any

import yaml

from pipeline.config.messages import shown
from pipeline.errors import PipelineError


class UniqueKeyLoader(yaml.SafeLoader):
    """A `yaml.SafeLoader` that refuses a repeated key, before merge keys (``<<``) are resolved."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """Compose a mapping and compare its keys."""
        node = super().compose_mapping_node(anchor)
        first: dict[str, yaml.Node] = {}
        for key, _ in node.value:
            earlier = first.setdefault(key.value, key) if isinstance(key, yaml.ScalarNode) else key
            if earlier is not key:
                line = earlier.start_mark.line + 1
                raise yaml.MarkedYAMLError(
                    problem=f"key {key.value!r} is in line {line} already", problem_mark=key.start_mark
                )
        return node


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML file that holds a mapping.

    Raises:
        PipelineError: If it holds something else, with the line where that shows.
    """
    try:
        raw = yaml.load(path.read_bytes(), UniqueKeyLoader)  # noqa: S506 (safe: see the class)
    except OSError as error:
        raise PipelineError(f"{path}: cannot be read ({error.strerror})") from error
    except yaml.YAMLError as error:
        raise PipelineError(f"{path}: not valid YAML: {_located(error)}") from error
    if not isinstance(raw, dict):
        found = "an empty file" if raw is None else shown(raw)
        raise PipelineError(f"{path}: found {found}; expected a mapping of sections")
    return raw


def _located(error: yaml.YAMLError) -> str:
    if not (isinstance(error, yaml.MarkedYAMLError) and error.problem_mark):
        return str(error)
    mark = error.problem_mark
    what = ", ".join(part for part in (error.context, error.problem) if part)
    return f"line {mark.line + 1}, column {mark.column + 1}: {what}"
