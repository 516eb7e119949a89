"""Settings that searches on the validation part have decided."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pipeline.errors import PipelineError
from pipeline.nested import with_values
from pipeline.tables.io import read_table


def with_chosen(step: Any, searches: Sequence[Path]) -> tuple[Any, dict[str, Path]]:
    """A step (`pipeline.command.Step`) whose settings that ``chosen`` lists are as the searches decided them.

    Returns:
        The step, and the searches by the names that they have among its inputs.

    Raises:
        PipelineError: If no search decided one of them, or a search did not choose one trial.
    """
    values = {key: value for search in searches for key, value in _chosen_values(search).items()}
    if not searches:
        return step, {}
    wanted = step.settings["chosen"]
    for key in wanted:
        if key not in values:
            names = ", ".join(map(str, searches))
            raise PipelineError(f"{key}: not decided by {names}; decided: {', '.join(values)}")
    decided = with_values(step.settings, {key: values[key] for key in wanted})
    return replace(step, settings=decided), {f"search{number}": path for number, path in enumerate(searches)}


def _chosen_values(search: Path) -> dict[str, Any]:
    rows = [row for row in read_table("search", search).to_pylist() if row["chosen"]]
    if len(rows) != 1:
        raise PipelineError(f"{search}: {len(rows)} trials are chosen; expected one")
    return json.loads(rows[0]["values"])
