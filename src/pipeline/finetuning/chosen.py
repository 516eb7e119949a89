"""Settings that searches on the validation part have decided."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.errors import PipelineError
from pipeline.nested import with_values
from pipeline.tables import read_table


def with_chosen(settings: Mapping[str, Any], searches: Sequence[Path]) -> dict[str, Any]:
    """Settings with those that ``chosen`` lists as the searches decided them.

    Raises:
        PipelineError: If no search decided one of them, or a search did not choose one trial.
    """
    values = {key: value for search in searches for key, value in _chosen_values(search).items()}
    for key in settings["chosen"]:
        if key not in values:
            names = ", ".join(map(str, searches))
            raise PipelineError(f"{key}: not decided by {names}; decided: {', '.join(values)}")
    return with_values(settings, {key: values[key] for key in settings["chosen"]})


def _chosen_values(search: Path) -> dict[str, Any]:
    rows = [row for row in read_table("search", search).to_pylist() if row["chosen"]]
    if len(rows) != 1:
        raise PipelineError(f"{search}: {len(rows)} trials are chosen; expected one")
    return json.loads(rows[0]["values"])
