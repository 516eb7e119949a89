"""The head of pre-training, for the classes of the source that are reused."""

import torch
from torch import nn

from pipeline.backbones.backbone import Backbone
from pipeline.errors import PipelineError
from pipeline.finetuning.reused import Reused
from pipeline.progress import log


def head_of_pretraining(pretrained: Backbone, reused: Reused) -> nn.Linear:
    """Rows of the pre-training head for the reused classes, to start a source head from.

    Raises:
        PipelineError: If the backbone has no head, or one for other classes than the source's.
    """
    head, names = pretrained.head, pretrained.description.class_names
    if head is None or names is None:
        raise PipelineError("reuse.head is pretraining, and this backbone has no such head")
    _require_same_classes(names, reused.samples.class_names)
    rows = torch.from_numpy(reused.classes)
    started = nn.Linear(pretrained.width, len(rows))
    with torch.no_grad():
        started.weight.copy_(head.weight[rows])
        started.bias.copy_(head.bias[rows])
    return started


def _require_same_classes(of_head: list[str], of_source: list[str]) -> None:
    if len(of_head) != len(of_source):
        raise PipelineError(
            f"reuse.head is pretraining, whose head has {len(of_head)} classes; "
            f"the source has {len(of_source)}"
        )
    if all(name == f"class {label}" for label, name in enumerate(of_head)):
        log.warning(
            "reuse.head is pretraining, whose head does not name its %d classes; they are taken to be the "
            "source's in their order, %s first",
            len(of_head),
            of_source[0],
        )
    for label, (found, expected) in enumerate(zip(of_head, of_source, strict=True)):
        if not same_class(found, expected, label):
            raise PipelineError(
                f"reuse.head is pretraining, and class {label} of its head is {found!r}; of the source "
                f"{expected!r}"
            )


def same_class(of_head: str, of_source: str, label: int) -> bool:
    """Whether two names may mean one class.

    A source may list synonyms of which published weights name the first, as ImageNet does, or name it
    without the comma. Weights without names call their classes ``class 0``, ``class 1``, ...

    >>> same_class("tench", "tench, Tinca tinca", 0)
    True
    >>> same_class("crane bird", "crane, bird", 134)
    True
    >>> same_class("goldfish", "tench, Tinca tinca", 0)
    False
    """
    names = (of_source, of_source.partition(",")[0], of_source.replace(",", ""), f"class {label}")
    return of_head.casefold() in map(str.casefold, names)
