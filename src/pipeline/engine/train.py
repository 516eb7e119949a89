"""The training loop, for pre-training, initialisation and fine-tuning alike."""

import fcntl
import math
import shutil
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any, Protocol

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from pipeline.engine.checkpoints import load_checkpoint, save_checkpoint
from pipeline.engine.optimisation import Optimiser, rate_factor
from pipeline.engine.randomness import derive
from pipeline.engine.records import Record
from pipeline.engine.streams import Batch, ImageStream
from pipeline.errors import PipelineError
from pipeline.progress import bar, log
from pipeline.provenance import Provenance
from pipeline.tables import atomic_path


class DivergedError(PipelineError):
    """The loss was not finite."""


class Learner(Protocol):
    """What is trained: a module that turns batches into a loss."""

    def loss(self, batches: Mapping[str, Batch]) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """The scalar to minimise, and its named parts for the history."""
        ...

    def after_step(self) -> None:
        """Called after each optimiser step (a momentum encoder moves here)."""
        ...


@dataclass(frozen=True)
class Window:
    """Which optimiser steps of a budget this training makes.

    Attributes:
        first: The first step, from 0.
        last: One past the last step.
        total: Steps of the whole budget, over which the schedule runs.
        per_epoch: Optimiser steps in an epoch.
    """

    first: int
    last: int
    total: int
    per_epoch: int

    @classmethod
    def of_budget(
        cls, budget: Mapping[str, Any], batches: int, accumulate: int, share: tuple[float, float] = (0, 1)
    ) -> "Window":
        """The window for a share (from, to) of a budget in epochs or iterations.

        A budget in epochs is cut between whole epochs.

        Raises:
            PipelineError: If the share holds no step.
        """
        per_epoch = -(-batches // accumulate)
        if budget["iterations"] is not None:
            total, unit = budget["iterations"], 1
        else:
            total, unit = budget["epochs"] * per_epoch, per_epoch
        first, last = (round(part * total / unit) * unit for part in share)
        if first == last:
            counted = f"{total // unit} {'iterations' if budget['epochs'] is None else 'epochs'}"
            raise PipelineError(
                f"the part from {share[0]:g} to {share[1]:g} of a budget of {counted} is empty; "
                "train longer, or give the initialisation another share"
            )
        return cls(first, last, total, per_epoch)

    @property
    def epochs(self) -> range:
        """The epochs that it trains, whole or in part, counted from 1."""
        return range(self.first // self.per_epoch + 1, -(-self.last // self.per_epoch) + 1)

    @property
    def ends(self) -> bool:
        """Whether the budget is used up at its end."""
        return self.last == self.total

    def until(self, share: float) -> "Window":
        """The same from its start to a share of the budget, rounded up to whole epochs of steps.

        What is trained up to there and goes on later is what is trained without a stop.
        """
        epochs = math.ceil(round(share * self.total / self.per_epoch, 9))
        return replace(self, last=min(epochs * self.per_epoch, self.last))


@dataclass
class Workspace:
    """Where one training keeps its files; inside ``with``, no other process trains there.

    Attributes:
        folder: Holds ``history.jsonl`` and ``timings.jsonl``, in the end the tables.
        stage: Name of the stage in history and timings.
        provenance: What this training is; its checkpoints are good for no other.
        state: Holds what a killed run resumes from, and keeps it at the end, for one that goes on with
            another folder. None is `folder`, which loses it.
        identity: The record that checkpoints belong to, where it is not `provenance`.
    """

    folder: Path
    stage: str
    provenance: Provenance
    state: Path | None = None
    identity: Provenance | None = None

    def __post_init__(self) -> None:
        self.folder = Path(self.folder)
        self.history = Record("history", self.folder / "history.parquet")
        self.timings = Record("timings", self.folder / "timings.parquet")
        place = self.state or self.folder
        self.resume = place / "resume.safetensors"
        self.best = place / "best.safetensors"
        self._held: IO[bytes] | None = None

    @property
    def digest(self) -> str:
        """Of what its checkpoints belong to."""
        return (self.identity or self.provenance).digest()

    def __enter__(self) -> "Workspace":
        """Hold the folder of the state and remove what killed writers left there.

        Raises:
            PipelineError: If another process holds it: two would mix their histories.
        """
        place = self.resume.parent
        for folder in (place, self.folder):
            folder.mkdir(parents=True, exist_ok=True)
        self._held = (place / self.history.lines.name).open("ab")
        try:
            fcntl.flock(self._held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self._held.close()
            raise PipelineError(
                f"{place}: another process is training here; wait until it is done, or end it"
            ) from error
        except OSError:
            pass  # a file system without locks
        for leftover in place.rglob(".*.tmp"):
            leftover.unlink(missing_ok=True)
        for lines, kept in self._lines_elsewhere():
            if kept.exists() and not lines.exists():
                shutil.copyfile(kept, lines)
        return self

    def __exit__(self, *_: object) -> None:
        """Let go of the folder; a killed process does so too."""
        assert self._held is not None
        self._held.close()

    def finish(self) -> None:
        """Write the tables of history and timings; remove what only a training that goes on needs."""
        self.history.finish(self.provenance)
        self.timings.finish(self.provenance)
        for lines, kept in self._lines_elsewhere():
            shutil.copyfile(lines, kept)
        if self.state is None:
            self.resume.unlink(missing_ok=True)
            self.best.unlink(missing_ok=True)
        self.history.discard()
        self.timings.discard()

    def _lines_elsewhere(self) -> list[tuple[Path, Path]]:
        """Lines of this training, and where the state keeps them."""
        if self.state is None:
            return []
        lines = (self.history.lines, self.timings.lines)
        return [(path, self.state / path.name) for path in lines]


def fit(
    learner: Any,
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
        learner: A module with the methods of `Learner`.
        optimiser: Of the learner's parameters.
        streams: The first decides how many batches an epoch has; the others give as many.
        training: Settings: schedule, precision, accumulate, evaluate_every.
        window: Which steps to make.
        workspace: Where history, timings and checkpoints go.
        evaluate: Metrics on the validation part, at every ``evaluate_every`` epochs and the budget's last.
        keep_best: Name of the metric of `evaluate` whose highest value decides which weights the
            learner has in the end (ties: the earlier); None for the last.
        after_epoch: Called with the number of finished epochs, before the checkpoint.

    Raises:
        DivergedError: If the loss is not finite: step, samples of the batch, and advice.
    """
    position = _resume(learner, optimiser, workspace, window)
    last_epoch = -(-window.last // window.per_epoch)
    names = list(streams)
    steps_in_all, steps_before = window.last - window.first, position["step"] - window.first
    with bar(workspace.stage, "step", steps_in_all, None, steps_before) as progress:
        for epoch in range(position["epoch"], last_epoch):
            started, images, totals = time.perf_counter(), 0, _Totals()
            # Layers such as dropout draw from the global generator.
            torch.manual_seed(derive(streams[names[0]].seed, "layers", epoch))
            steps = _steps(streams, names, epoch, training["accumulate"])
            for number, group in enumerate(steps, start=epoch * window.per_epoch):
                if number < window.first:
                    continue
                if number >= window.last:
                    break
                factor = rate_factor(training["schedule"], number, window.total, window.per_epoch)
                group_images = sum(len(batches[names[0]].labels) for batches in group)
                for batches in group:
                    loss, parts = _forward(learner, batches, training["precision"])
                    if not torch.isfinite(loss):
                        raise DivergedError(_not_finite(loss, parts, batches, streams, number))
                    count = len(batches[names[0]].labels)
                    (loss * (count / group_images)).backward()
                    totals.add({"loss": loss, **parts}, count)
                    images += sum(len(batch.labels) for batch in batches.values())
                optimiser.step(factor)
                learner.after_step()
                progress.update()
            step = min(window.last, (epoch + 1) * window.per_epoch)
            rows = totals.rows() | {"learning_rate": optimiser.rate(factor)}
            _write(workspace, epoch + 1, step, "train", rows)
            _write_timing(workspace, epoch + 1, images, time.perf_counter() - started, learner)
            is_last = epoch + 1 == last_epoch and window.ends
            if evaluate and ((epoch + 1) % training["evaluate_every"] == 0 or is_last):
                metrics = evaluate()
                _write(workspace, epoch + 1, step, "validation", metrics)
                if keep_best and metrics[keep_best] > position["best"]:
                    position["best"] = metrics[keep_best]
                    _save_best(workspace.best, learner)
            if after_epoch:
                after_epoch(epoch + 1)
            position |= {"epoch": epoch + 1, "step": step}
            _save(learner, optimiser, workspace, position)
    if keep_best and workspace.best.exists():
        learner.load_state_dict(load_file(workspace.best))


class _Totals:
    """Means over an epoch, weighted by images, without waiting for the device at each step."""

    def __init__(self) -> None:
        self.sums: dict[str, torch.Tensor] = {}
        self.images = 0

    def add(self, parts: Mapping[str, torch.Tensor], images: int) -> None:
        for name, value in parts.items():
            self.sums[name] = self.sums.get(name, 0) + value.detach().double() * images
        self.images += images

    def rows(self) -> dict[str, float]:
        return {name: float(total) / self.images for name, total in self.sums.items()}


def _steps(streams: Mapping[str, ImageStream], names: list[str], epoch: int, accumulate: int) -> Any:
    """The batches of an epoch, grouped by optimiser step; of each stream one at a time."""
    group = []
    for batches in zip(*(streams[name].epoch(epoch) for name in names), strict=True):
        group.append(dict(zip(names, batches, strict=True)))
        if len(group) == accumulate:
            yield group
            group = []
    if group:
        yield group


def _forward(
    learner: Any, batches: Mapping[str, Batch], precision: str
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    device = next(iter(batches.values())).images.device.type
    lowered = precision == "bfloat16"
    with torch.autocast(device, torch.bfloat16) if lowered else nullcontext():
        return learner.loss(batches)


def _not_finite(
    loss: torch.Tensor,
    parts: Mapping[str, torch.Tensor],
    batches: Mapping[str, Batch],
    streams: Mapping[str, ImageStream],
    step: int,
) -> str:
    shown = "".join(f", {name} {value.item():g}" for name, value in parts.items())
    samples = "; ".join(
        f"{name}: {', '.join(streams[name].sample_ids[row] for row in sorted(batch.samples))}"
        for name, batch in batches.items()
    )
    return (
        f"the loss is {loss.item():g} at step {step}{shown}. Samples of this batch: {samples}. Try a lower "
        "learning rate, a warm-up, or precision float32; the last good checkpoint is kept, and changed "
        "settings start anew."
    )


def _resume(learner: nn.Module, optimiser: Optimiser, workspace: Workspace, window: Window) -> dict[str, Any]:
    position = load_checkpoint(workspace.resume, learner, optimiser, workspace.digest, window.last)
    if position is None:
        workspace.best.unlink(missing_ok=True)
        position = {
            "epoch": window.first // window.per_epoch,
            "step": window.first,
            "best": float("-inf"),
            "history": 0,
            "timings": 0,
        }
    else:
        log.info("%s: resumed after epoch %d", workspace.stage, position["epoch"])
    workspace.history.truncate(position["history"])
    workspace.timings.truncate(position["timings"])
    return position


def _save(learner: nn.Module, optimiser: Optimiser, workspace: Workspace, position: dict[str, Any]) -> None:
    position["history"] = workspace.history.size()
    position["timings"] = workspace.timings.size()
    save_checkpoint(workspace.resume, learner, optimiser, workspace.digest, position)


def _save_best(path: Path, learner: nn.Module) -> None:
    with atomic_path(path) as temporary:
        save_file({k: v.contiguous().clone() for k, v in learner.state_dict().items()}, temporary)


def _write(workspace: Workspace, epoch: int, step: int, split: str, metrics: Mapping[str, float]) -> None:
    workspace.history.append(
        [
            {"stage": workspace.stage, "epoch": epoch, "step": step, "split": split}
            | {"metric": metric, "value": value}
            for metric, value in metrics.items()
        ]
    )


def _write_timing(workspace: Workspace, epoch: int, images: int, seconds: float, learner: nn.Module) -> None:
    device = next(learner.parameters()).device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    row = {"stage": workspace.stage, "epoch": epoch, "images": images}
    workspace.timings.append([row | {"seconds": round(seconds, 4), "device": name}])
