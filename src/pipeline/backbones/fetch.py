"""Backbones that are not pre-trained here: published weights, checkpoints, epochs that were kept."""

import importlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch

from pipeline.backbones.backbone import Backbone, Description
from pipeline.backbones.download import download, sha256_of
from pipeline.backbones.files import load_backbone
from pipeline.backbones.foreign import adopt, read_tensors
from pipeline.backbones.kept import kept_file, kept_files
from pipeline.errors import PipelineError, did_you_mean

# torchvision's files of DenseNet still have dots where its modules no longer can.
DENSENET_KEY = re.compile(r"(denselayer\d+\.(?:norm|conv))\.([12])\.")


class Fetched(NamedTuple):
    """A backbone, and the SHA-256 of the file that its weights came from."""

    backbone: Backbone
    sha256: str


def fetch(settings: Mapping[str, Any], downloads: Path) -> Fetched:
    """The backbone of an entry of origin ``torchvision`` or ``checkpoint``.

    Args:
        settings: The entry.
        downloads: Folder of what was downloaded, by digest. Weights of torchvision are in torch.hub's
            own folder instead, where other programs have and find them.

    Raises:
        PipelineError: If the weights are not to be had, are not those that the digest names, or do not
            fit the architecture; or if the crop does not.
    """
    if settings["origin"] == "torchvision":
        fetched = _from_torchvision(settings)
    else:
        fetched = _from_checkpoint(settings, downloads)
    _require_crop(fetched.backbone)
    return fetched


def kept_epoch(checkpoints: Path, settings: Mapping[str, Any]) -> tuple[Backbone, Path]:
    """The backbone as it was after an earlier epoch, and the file it was kept in.

    Args:
        checkpoints: Folder of ``epoch_0001.safetensors`` and so on.
        settings: ``epoch``.

    Raises:
        PipelineError: If that epoch was not kept.
    """
    path = kept_file(checkpoints, settings["epoch"])
    if not path.is_file():
        kept = [str(epoch) for epoch, _ in kept_files(checkpoints)]
        raise PipelineError(f"{checkpoints}: no epoch {settings['epoch']}; kept: {', '.join(kept) or 'none'}")
    return load_backbone(path), path


def _from_torchvision(settings: Mapping[str, Any]) -> Fetched:
    model, weights = published_weights(settings["weights"])
    name = weights.url.rpartition("/")[2]
    digest = name.rpartition("-")[2].partition(".")[0]
    file = Path(torch.hub.get_dir(), "checkpoints", name)
    sha256 = download(weights.url, file, digest)
    tensors = {DENSENET_KEY.sub(r"\1\2.", key): value for key, value in read_tensors(file).items()}
    description = _description(settings, {"name": "torchvision", "model": model})
    backbone = adopt(description, tensors, settings["weights"], class_names=weights.meta["categories"])
    return Fetched(backbone, sha256)


def published_weights(name: str) -> tuple[str, Any]:
    """The model's name and the enum entry of weights, such as ``ResNet18_Weights.IMAGENET1K_V1``."""
    from torchvision import models

    # Members alone, without the alias DEFAULT: what that means changes with torchvision's version.
    known = {
        f"{type(weights).__name__}.{weights.name}": (model, weights)
        for model in models.list_models(module=models)
        for weights in models.get_model_weights(model)
    }
    if name not in known:
        raise PipelineError(f"torchvision publishes no weights {name!r}{did_you_mean(name, known)}")
    return known[name]


def _from_checkpoint(settings: Mapping[str, Any], downloads: Path) -> Fetched:
    expected = settings["sha256"]
    if settings["url"] is not None:
        source, path = settings["url"], downloads / expected
        download(source, path, expected)
    else:
        source, path = settings["path"], Path(settings["path"])
        _require_digest(path, expected)
    description = _description(settings, settings["architecture"], settings["projection"])
    # Only the format that the settings name is loaded: the job's code digest names no other.
    layout = importlib.import_module(f"pipeline.backbones.formats.{settings['format']}")
    tensors = layout.convert(read_tensors(path, layout.NESTED), description.architecture, source)
    return Fetched(adopt(description, tensors, source, settings["prefix"]), expected)


def _require_digest(path: Path, expected: str) -> None:
    if not path.is_file():
        raise PipelineError(f"{path}: no such file")
    found = sha256_of(path)
    if found != expected:
        raise PipelineError(f"{path}: the file has SHA-256 {found}, expected {expected}")


def _description(
    settings: Mapping[str, Any],
    architecture: Mapping[str, Any],
    projection: Mapping[str, Any] | None = None,
) -> Description:
    return Description(architecture, settings["preprocessing"], projection)


def _require_crop(backbone: Backbone) -> None:
    """Pass one black image through: a wrong crop is found now rather than in a later job."""
    crop = backbone.description.preprocessing["crop"]
    try:
        with torch.inference_mode():
            backbone.eval()(torch.zeros(1, 3, crop, crop))
    except (RuntimeError, AssertionError) as error:
        raise PipelineError(
            f"preprocessing.crop: images of {crop} x {crop} pixels do not fit the network ({error})"
        ) from error
