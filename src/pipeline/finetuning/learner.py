"""What fine-tuning trains: the backbone with its new head, the objective, and reuse."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm as BatchNorm

from pipeline.backbones.backbone import Backbone
from pipeline.engine.distributed import gather
from pipeline.engine.learner import Learner, Loss
from pipeline.engine.streams import Batch
from pipeline.objectives import Objective, TargetOutputs
from pipeline.reuse import Reuse, SourceOutputs


class FineTuning(Learner):
    """The objective on the target, plus the loss of reused source images (UOT paper, Eq. 6 and 7).

    Args:
        backbone: With a head for the target's classes.
        objective: From a module of `pipeline.objectives`.
        reuse: From a module of `pipeline.reuse`, or None.
        batch_norm: ``joint``: target and source (all its views) pass in one batch, as the paper's
            total batch size of 512 reads (section 4.1), so batch normalisation sees both.
            ``separate``: the source passes alone, and the running statistics are the target's.
    """

    def __init__(
        self,
        backbone: Backbone,
        objective: Objective,
        reuse: Reuse | None = None,
        batch_norm: str = "joint",
    ):
        super().__init__()
        assert backbone.head is not None
        self.backbone, self.objective, self.reuse = backbone, objective, reuse
        self.batch_norm = batch_norm
        self.heads = (backbone.head, *objective.heads, *(reuse.heads if reuse else []))
        self.pretrained = objective.pretrained
        self._seen: dict[str, torch.Tensor] = {}
        for name in objective.layers:
            backbone.encoder.get_submodule(name).register_forward_hook(partial(self._see, name))
        projectors = [("projector", objective.projector)] if objective.projector else []
        self.carried = (("head", backbone.head), *projectors)

    def loss(self, batches: Mapping[str, Batch]) -> Loss:
        """The total, and its parts: accuracy on the batch, the objective's own, the source's."""
        target, source = batches["target"], batches.get("source")
        features, source_features = self._features(target, source)
        head = self.backbone.head
        assert head is not None
        features, labels = gather(features), gather(target.labels)
        logits = head(features)
        outputs = TargetOutputs(
            images=target.images,
            labels=labels,
            features=features,
            logits=logits,
            backbone=self.backbone,
            draws=gather(target.draws),
            views=target.views,
            layers={name: maps[: len(target.labels)] for name, maps in self._seen.items()},
        )
        self._seen.clear()
        loss, parts = self.objective(outputs)
        parts = {"top1": (logits.argmax(1) == labels).float().mean(), **parts}
        if source is not None and self.reuse is not None:
            views = tuple(map(gather, source_features))
            reused = self.reuse(SourceOutputs(views, gather(source.labels), head))
            parts |= {"objective": loss, "reuse": reused}
            loss = loss + reused
        return loss, parts

    def _features(self, target: Batch, source: Batch | None) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
        """Features of the target's images, and of each view of the source's."""
        if source is None:
            return self._forward([target.images])[0], ()
        views = [source.images, *source.views]
        if self.batch_norm == "joint":
            features, *rest = self._forward([target.images, *views])
            return features, tuple(rest)
        with _running_statistics_kept(self.backbone):
            rest = self._forward(views)
        return self._forward([target.images])[0], tuple(rest)

    def _forward(self, images: list[torch.Tensor]) -> list[torch.Tensor]:
        """Features of several batches that pass as one."""
        together = torch.cat(images) if len(images) > 1 else images[0]
        features = self.backbone(together.contiguous(memory_format=torch.channels_last))
        return list(features.split([len(batch) for batch in images]))

    def _see(self, name: str, _module: nn.Module, _inputs: object, output: torch.Tensor) -> None:
        """Keep what a layer gave until the objective has had it; the target passes last, or first of all."""
        if torch.is_grad_enabled():
            self._seen[name] = output

    def begin_cycle(self, number: int) -> None:
        """A cycle of the schedule begins."""
        self.objective.begin_cycle(number, self.backbone)

    def after_step(self) -> None:
        """The optimiser has moved."""
        self.objective.after_step(self.backbone)


@contextmanager
def _running_statistics_kept(module: nn.Module) -> Iterator[None]:
    """Inside, batch normalisation uses a batch's statistics and adds nothing to the running ones."""
    layers = [layer for layer in module.modules() if isinstance(layer, BatchNorm)]
    momenta = [layer.momentum for layer in layers]
    for layer in layers:
        layer.momentum = 0.0
    yield
    for layer, momentum in zip(layers, momenta, strict=True):
        layer.momentum = momentum
