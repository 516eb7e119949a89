"""Models of torchvision by name, with the classification layer taken off."""

from collections.abc import Mapping
from typing import Any

from torch import nn
from torchvision import models

from pipeline.errors import PipelineError, did_you_mean

# Auxiliary outputs while training and inputs scaled inside (GoogLeNet, Inception), or weights that
# load only with a version that safetensors do not hold (MNASNet).
UNFIT = ("googlenet", "inception", "mnasnet")


def build(settings: Mapping[str, Any]) -> tuple[nn.Module, int, str | None]:
    """The model, its feature width, and the prefix of its classification layer.

    Args:
        settings: ``model``, such as ``resnet18``.

    Raises:
        PipelineError: If torchvision has no such model, or its last linear layer is not found.
    """
    name = settings["model"]
    known = models.list_models(module=models)
    if name not in known:
        raise PipelineError(f"torchvision has no classification model {name!r}{did_you_mean(name, known)}")
    if name.startswith(UNFIT):
        raise PipelineError(f"torchvision's {name} cannot be fine-tuned here; choose another model")
    model = models.get_model(name, weights=None)
    linear = [path for path, layer in model.named_modules() if isinstance(layer, nn.Linear)]
    if not linear:
        raise PipelineError(f"torchvision's {name} has no linear classification layer")
    path = linear[-1]
    parent_path, _, child = path.rpartition(".")
    parent = model.get_submodule(parent_path)
    width = parent.get_submodule(child).in_features
    setattr(parent, child, nn.Identity())
    return model, int(width), path
