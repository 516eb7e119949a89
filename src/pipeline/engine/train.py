"""The training loop, for pre-training, initialisation and fine-tuning alike."""

import copy
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm as BatchNorm
from torch.nn.parallel import DistributedDataParallel

from pipeline.engine.checkpoints import load_checkpoint, save_checkpoint
from pipeline.engine.compiling import compile_forward
from pipeline.engine.distances import Distances
from pipeline.engine.distributed import gather, lost_connection_told, rank, wait_for_all, world
from pipeline.engine.learner import Learner, Loss
from pipeline.engine.memory import memory_advice
from pipeline.engine.optimisation import Optimiser, rate_factor
from pipeline.engine.randomness import derive
from pipeline.engine.streams import Batch, ImageStream
from pipeline.engine.window import Window
from pipeline.engine.workspace import Workspace
from pipeline.errors import PipelineError
from pipeline.progress import bar, log
from pipeline.tables import atomic_path

# Batches of one step of the optimiser, each by the name of its stream.
Group = list[dict[str, Batch]]


class DivergedError(PipelineError):
    """The loss was not finite."""


@lost_connection_told()
def fit(
    learner: Learner,
    optimiser: Optimiser,
    streams: Mapping[str, ImageStream],
    training: Mapping[str, Any],
    window: Window,
    workspace: Workspace,
    evaluate: Callable[[], dict[str, float]] | None = None,
    keep_best: str | None = None,
    after_epoch: Callable[[int], None] | None = None,
) -> None:
    """Train `learner` over `window`, resuming from where a killed run was.

    Args:
        learner: What to train.
        optimiser: Of the learner's parameters.
        streams: The first decides how many batches an epoch has; the others give as many.
        training: Settings: schedule, precision, accumulate, batch_size, compile, threads, evaluate_every.
        window: Which steps to make.
        workspace: Where history, timings and checkpoints go.
        evaluate: Metrics on the validation part, at every ``evaluate_every`` epochs and the budget's last.
        keep_best: Name of the metric of `evaluate` whose highest value decides which weights the
            learner has in the end (ties: the earlier); None for the last.
        after_epoch: Called with the number of finished epochs, before the checkpoint.

    Raises:
        DivergedError: If the loss is not finite: step, samples of the batch, and advice.
        PipelineError: If memory is full: what to change; if another process that trains along has ended.
    """
    distances = Distances(optimiser.backbone)
    if training["compile"]:
        compile_forward(optimiser.backbone, training["threads"])
    position = _resume(learner, optimiser, workspace, window)
    epochs = _Epochs(learner, optimiser, streams, training, window)
    last_epoch = window.epochs[-1]
    steps_in_all, steps_before = window.last - window.first, position["step"] - window.first
    with bar(workspace.stage, "step", steps_in_all, None, steps_before) as progress:
        for epoch in range(position["epoch"], last_epoch):
            started = time.perf_counter()
            with memory_advice(training):
                rows, images = epochs.train(epoch, progress.update)
            seconds = time.perf_counter() - started
            step = min(window.last, (epoch + 1) * window.per_epoch)
            workspace.add_metrics(epoch + 1, step, "train", rows)
            workspace.add_timing(epoch + 1, images, seconds, _device_name(learner))
            workspace.add_distances(epoch + 1, distances.now())
            is_last = epoch + 1 == last_epoch and window.ends
            if evaluate and ((epoch + 1) % training["evaluate_every"] == 0 or is_last):
                metrics = evaluate()
                workspace.add_metrics(epoch + 1, step, "validation", metrics)
                if keep_best and metrics[keep_best] > position["best"]:
                    position["best"] = metrics[keep_best]
                    _save_best(workspace, learner)
            if after_epoch:
                after_epoch(epoch + 1)
            position |= {"epoch": epoch + 1, "step": step}
            _save(learner, optimiser, workspace, position)
    wait_for_all()
    if keep_best and workspace.best.exists():
        learner.load_state_dict(load_file(workspace.best))


class _Epochs:
    """Trains one epoch after the other."""

    def __init__(
        self,
        learner: Learner,
        optimiser: Optimiser,
        streams: Mapping[str, ImageStream],
        training: Mapping[str, Any],
        window: Window,
    ):
        self.learner, self.optimiser, self.streams = learner, optimiser, streams
        self.training, self.window = training, window
        self.first = next(iter(streams))
        self.loss = _joint(_Called(learner))

    def train(self, epoch: int, step_made: Callable[[], Any]) -> tuple[dict[str, float], int]:
        """Train an epoch, or what the window has of it.

        Returns:
            Means over the epoch with the last learning rate, and how many images passed.
        """
        window, totals, factor = self.window, _Totals(), 1.0
        # Layers such as dropout draw from the global generator.
        other = (rank(),) if rank() else ()
        torch.manual_seed(derive(self.streams[self.first].seed, "layers", epoch, *other))
        for number, group in enumerate(self._groups(epoch), start=epoch * window.per_epoch):
            if number < window.first:
                continue
            if number >= window.last:
                break
            if number in window.cycles[1:]:
                self.learner.begin_cycle(window.cycle(number))
            place, length = window.place(number)
            factor = rate_factor(self.training["schedule"], place, length, window.per_epoch)
            self._gradients(group, number, totals)
            self.optimiser.step(factor)
            self.learner.after_step()
            step_made()
        return totals.rows() | {"learning_rate": self.optimiser.rate(factor)}, totals.passed

    def _gradients(self, group: Group, number: int, totals: "_Totals") -> None:
        """Add up the gradients of the batches of one step; each image counts alike."""
        sizes = [batches[self.first].joint_size for batches in group]
        for batches, size in zip(group, sizes, strict=True):
            with nullcontext() if batches is group[-1] else self.loss.no_sync():
                loss, parts = self._forward(batches)
                if not torch.isfinite(loss):
                    raise DivergedError(_not_finite(loss, parts, batches, self.streams, number))
                (loss * (size / sum(sizes))).backward()
            totals.add({"loss": loss, **parts}, size, sum(batch.joint_size for batch in batches.values()))

    def _forward(self, batches: dict[str, Batch]) -> Loss:
        device = batches[self.first].images.device.type
        lowered = self.training["precision"] == "bfloat16"
        with torch.autocast(device, torch.bfloat16) if lowered else nullcontext():
            return self.loss(batches)

    def _groups(self, epoch: int) -> Iterator[Group]:
        """The batches of an epoch, grouped by optimiser step; of each stream one at a time."""
        group: Group = []
        for batches in zip(*(stream.epoch(epoch) for stream in self.streams.values()), strict=True):
            group.append(dict(zip(self.streams, batches, strict=True)))
            if len(group) == self.training["accumulate"]:
                yield group
                group = []
        if group:
            yield group


class _Called(nn.Module):
    """A learner whose loss is its forward pass, as DistributedDataParallel asks."""

    def __init__(self, learner: Learner):
        super().__init__()
        self.learner = learner

    def forward(self, batches: Mapping[str, Batch]) -> Loss:
        return self.learner.loss(batches)

    def no_sync(self) -> Any:
        """One process has nothing to wait with."""
        return nullcontext()


def _joint(called: _Called) -> Any:
    """The loss of all processes together; its backward pass means their gradients."""
    if world() == 1:
        return called
    _share_statistics(called)
    # What a stage does not train (the head of pre-training, in a contrastive one) has no gradient.
    # Buffers are equal already: batch statistics are frozen or shared, queues hold gathered keys.
    return DistributedDataParallel(called, broadcast_buffers=False, find_unused_parameters=True)


def _share_statistics(module: nn.Module) -> None:
    """Let batch normalisation see the joint batch, which PyTorch can on GPUs only."""
    normalised = [part for part in module.modules() if isinstance(part, BatchNorm) and part.training]
    if not normalised:
        return
    if next(module.parameters()).device.type != "cuda":
        raise PipelineError(
            "gpu: several processes share the statistics of batch normalisation on GPUs only, and here are "
            "none; set batch_norm: frozen"
        )
    nn.SyncBatchNorm.convert_sync_batchnorm(module)


class _Totals:
    """Means over an epoch, weighted by images, without waiting for the device at each step."""

    def __init__(self) -> None:
        self.sums: dict[str, torch.Tensor] = {}
        self.images = self.passed = 0

    def add(self, parts: Mapping[str, torch.Tensor], images: int, passed: int) -> None:
        for name, value in parts.items():
            self.sums[name] = self.sums.get(name, 0) + value.detach().double() * images
        self.images += images
        self.passed += passed

    def rows(self) -> dict[str, float]:
        return {name: float(total) / self.images for name, total in self.sums.items()}


def _not_finite(
    loss: torch.Tensor,
    parts: Mapping[str, torch.Tensor],
    batches: Mapping[str, Batch],
    streams: Mapping[str, ImageStream],
    step: int,
) -> str:
    shown = "".join(f", {name} {value.item():g}" for name, value in parts.items())
    samples = "; ".join(
        f"{name}: {', '.join(streams[name].sample_ids[row] for row in _joint_samples(batch))}"
        for name, batch in batches.items()
    )
    return (
        f"the loss is {loss.item():g} at step {step}{shown}. Samples of this batch: {samples}. Try a lower "
        "learning rate, a warm-up, or precision float32; the last good checkpoint is kept, and changed "
        "settings start anew."
    )


def _joint_samples(batch: Batch) -> list[int]:
    """Rows of the images of a batch in all processes: any of them may be the cause."""
    rows: list[int] = gather(torch.from_numpy(batch.samples).to(batch.labels.device)).tolist()
    return sorted(rows)


@contextmanager
def going_back(learner: nn.Module, allowed: bool) -> Iterator[None]:
    """Where a loss may diverge, go back to the weights that there were at first if it does.

    Raises:
        DivergedError: Inside, the loss was not finite, and that is not allowed.
    """
    first = copy.deepcopy(learner.state_dict()) if allowed else None
    try:
        yield
    except DivergedError as error:
        if first is None:
            raise
        log.warning("this trial is judged by the weights it began with: %s", error)
        learner.load_state_dict(first)


def _resume(learner: nn.Module, optimiser: Optimiser, workspace: Workspace, window: Window) -> dict[str, Any]:
    position = load_checkpoint(workspace.resume, learner, optimiser, workspace.digest, window.last)
    if position is None:
        if workspace.writes:
            workspace.best.unlink(missing_ok=True)
        position = {
            "epoch": window.first // window.per_epoch,
            "step": window.first,
            "best": float("-inf"),
            "records": [0] * len(workspace.records),
        }
    else:
        log.info("%s: resumed after epoch %d", workspace.stage, position["epoch"])
    workspace.go_back(position["records"])
    return position


def _save(learner: nn.Module, optimiser: Optimiser, workspace: Workspace, position: dict[str, Any]) -> None:
    if workspace.writes:
        position["records"] = workspace.sizes()
        save_checkpoint(workspace.resume, learner, optimiser, workspace.digest, position)


def _save_best(workspace: Workspace, learner: nn.Module) -> None:
    if workspace.writes:
        with atomic_path(workspace.best) as temporary:
            save_file({k: v.contiguous().clone() for k, v in learner.state_dict().items()}, temporary)


def _device_name(learner: nn.Module) -> str:
    device = next(learner.parameters()).device
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
