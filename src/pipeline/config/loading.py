"""From a YAML file or a mapping to settings, with errors that name the key."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, get_args, get_origin

from pydantic import TypeAdapter, ValidationError

from pipeline.config.checks import dangling, impossible
from pipeline.config.messages import describe, dotted
from pipeline.config.model import Config
from pipeline.config.reading import read_yaml
from pipeline.errors import PipelineError


def load_config(values: Mapping[str, Any] | Path) -> Config:
    """Validate a config.

    Args:
        values: The config as Snakemake holds it, or a YAML file.

    Raises:
        PipelineError: Listing every problem: its key path, what was found, what is allowed.
    """
    raw = read_yaml(values) if isinstance(values, Path) else dict(values)
    try:
        config = Config.model_validate(raw)
    except ValidationError as error:
        lines = (line for problem in error.errors() for line in describe(problem, raw))
        raise PipelineError(_listed(lines)) from None
    problems = list(dangling(config)) or list(impossible(config))
    if problems:
        raise PipelineError(_listed(f"{dotted(path)}: {message}" for path, message in problems))
    return config


def complete_settings(section: str, values: Mapping[str, Any], without: str = "") -> dict[str, Any]:
    """Settings of a step that is run by hand: checked, and with the defaults of what is left out.

    Args:
        section: The section of the config that they are an entry of.
        values: What was given.
        without: A key of such entries that the step does not take, since it takes files instead.

    Raises:
        PipelineError: Listing every problem.
    """
    kind: Any = Config.model_fields[section].annotation
    if get_origin(kind) is dict:
        kind = get_args(kind)[1]
    if without in values:
        raise PipelineError(f"--settings: {without}: not a setting of this command, which takes files for it")
    try:
        entry = TypeAdapter(kind).validate_python(dict(values))
    except ValidationError as error:
        lines = (line for problem in error.errors() for line in describe(problem, values))
        raise PipelineError(_listed(lines, "--settings")) from None
    return entry.model_dump(mode="json", exclude={without})


def _listed(problems: Iterable[str], what: str = "the config") -> str:
    lines = list(dict.fromkeys(problems))
    head = f"{what} has a problem" if len(lines) == 1 else f"{what} has {len(lines)} problems"
    return "\n".join([f"{head}:", *(f"  {line}" for line in lines)])
