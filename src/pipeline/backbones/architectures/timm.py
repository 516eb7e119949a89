"""Models of timm by name, with the classification layer taken off. timm is an optional dependency."""

from collections.abc import Mapping
from typing import Any

from torch import nn

from pipeline.errors import PipelineError, did_you_mean


def build(settings: Mapping[str, Any]) -> tuple[nn.Module, int, str | None]:
    """The model, its feature width, and the prefix of its classification layer.

    Args:
        settings: ``model``, such as ``convnext_tiny``.

    Raises:
        PipelineError: If timm is not installed or has no such model, or the model has several
            classification layers.
    """
    try:
        import timm
    except ImportError as error:
        raise PipelineError(
            "architecture timm: the package timm is not installed here; python -m pip install "
            "'graftune[timm]', or in a clone .venv/bin/uv pip install timm, and in the same way "
            "where jobs run"
        ) from error
    name = settings["model"]
    if not timm.is_model(name):
        raise PipelineError(f"timm has no model {name!r}{did_you_mean(name, timm.list_models())}")
    model: Any = timm.create_model(name, pretrained=False, num_classes=0)
    layer = model.pretrained_cfg.get("classifier")
    if not isinstance(layer, str | None):
        layers = ", ".join(layer)
        raise PipelineError(f"timm's {name} has several classification layers ({layers}); choose another")
    return model, int(model.head_hidden_size), layer
