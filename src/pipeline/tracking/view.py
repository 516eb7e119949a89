"""The table of runs as it should greet its reader: a saved view of MLflow's UI.

MLflow keeps saved views as tags of the experiment. This one appears in its menu of views and at the
address that `python -m pipeline.tracking ui` prints.
"""

import json

VIEW = "graftune"  # as it stands in addresses
VIEW_TAG = f"mlflow.sharedViewState.{VIEW}"

NAME, CREATED = "attributes.`Run Name`", "runDateAndNestInfo"
METRICS = {"test/top1": 95, "validation/top1": 120, "train/loss": 95}
TAGS = {"recipe": 110, "selection": 100, "target": 100, "backbone": 100, "seed": 60, "outcome": 90}


def saved_view() -> str:
    """The tag's value: fine-tuning runs and floors, with what tells them apart and how good they are."""
    metrics = {f"metrics.`{name}`": width for name, width in METRICS.items()}
    tags = {f"tags.`{name}`": width for name, width in TAGS.items()}
    state = {
        # Of kinds fine-tuning and floor; MLflow's filters have no "or".
        "searchFilter": "tags.kind LIKE 'f%'",
        "orderByKey": "attributes.`Created`",
        "orderByAsc": False,
        "selectedColumns": [*metrics, *tags],
        "columnOrder": [NAME, CREATED, *metrics, *tags],
        "columnWidths": {NAME: 310, CREATED: 140, **metrics, **tags},
    }
    envelope = {"name": "Fine-tuning runs", "createdAt": 0, "updatedAt": 0}
    return json.dumps({**envelope, "state": json.dumps(state)})
