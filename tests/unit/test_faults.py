"""Full disks and full memory: a clear message, the last good checkpoint, and the same result in the end."""

import errno
import json
import logging
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from pipeline.backbones.backbone import Description, build_backbone
from pipeline.backbones.files import save_backbone
from pipeline.engine import train as engine
from pipeline.engine.augmentation import Normalisation
from pipeline.engine.inference import forward_all
from pipeline.engine.memory import is_memory_full
from pipeline.errors import PipelineError
from pipeline.finetuning.finetune import finetune
from pipeline.initialisation.initialise import initialise
from pipeline.objectives.cross_entropy import CrossEntropy
from pipeline.provenance import Provenance
from pipeline.tables import read_table

pytestmark = pytest.mark.usefixtures("torch_as_before")

DESCRIPTION = Description(
    architecture={"name": "small_resnet", "widths": [16, 32], "blocks": 1, "stem_stride": 1},
    preprocessing={"resize": 10, "crop": 10, "mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25]},
)
COIN = {
    **{"name": "coin", "share": 0.5, "schedule": "joint"},
    **{"temperature": 0.3, "projection": 8, "hidden": None},
}
STAGES = ("finetuning", "initialisation")
WEIGHTS = {"finetuning": "model.safetensors", "initialisation": "weights.safetensors"}
# More than any machine has, and less than a number of bytes can be.
TOO_MUCH = 1 << 60


class Stage:
    """Four epochs of one of the stages, here or as a command.

    Attributes:
        name: Of its step.
        weights: The file that holds what it trained.
    """

    def __init__(self, name: str, paths: tuple[Path, ...], settings: dict[str, Any], record: Provenance):
        self.name, self.weights = name, WEIGHTS[name]
        self._paths, self._settings, self._record = paths, settings, record

    def train(self, folder: Path, **changes: Any) -> Path:
        settings = self._settings | changes
        if self.name == "finetuning":
            finetune(*self._paths, folder, None, settings, self._record)
        else:
            initialise(*self._paths, folder, settings, self._record)
        return folder

    def command(self, folder: Path, largest_file: int | None = None) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", f"pipeline.{self.name}", *map(str, (*self._paths, folder))]

        def limit() -> None:
            if largest_file is not None:
                resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))

        return subprocess.run(
            [*command, "--settings", json.dumps(self._settings)],
            capture_output=True,
            text=True,
            timeout=300,
            preexec_fn=limit,
        )


@pytest.fixture(scope="module")
def make_stage(
    tmp_path_factory: pytest.TempPathFactory,
    make_dataset: Callable[..., Any],
    training: Callable[..., dict[str, Any]],
    tuning: Callable[..., dict[str, Any]],
    record: Provenance,
) -> Callable[[str], Stage]:
    folder = tmp_path_factory.mktemp("faults")
    target = make_dataset(folder / "target", seed=1)
    save_backbone(folder / "weights.safetensors", build_backbone(DESCRIPTION, 3), record)
    paths = (*target.paths, folder / "weights.safetensors")
    first = {
        "initialise": COIN,
        "batch_norm": "trained",
        "fit_on": ["train"],
        "may_diverge": False,
        "seed": 0,
    }
    settings = {
        "finetuning": tuning(budget={"epochs": 4, "iterations": None}, evaluate_every=1),
        "initialisation": training(budget={"epochs": 8, "iterations": None}) | first,
    }

    def make(name: str) -> Stage:
        return Stage(name, paths, settings[name], record)

    return make


@pytest.fixture(params=STAGES)
def stage(request: pytest.FixtureRequest, make_stage: Callable[[str], Stage]) -> Stage:
    return make_stage(request.param)


@pytest.fixture
def checkpoint_sizes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Bytes of every checkpoint that is written here from now on."""
    sizes: list[int] = []
    save = engine.save_checkpoint

    def spy(path: Path, *rest: Any) -> None:
        save(path, *rest)
        sizes.append(path.stat().st_size)

    monkeypatch.setattr(engine, "save_checkpoint", spy)
    return sizes


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """A function that gives a folder which holds so many bytes; called again it changes how many."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def hold(size: int) -> Path:
        how = "remount" if folder.is_mount() else "rw"
        command = ["mount", "-t", "tmpfs", "-o", f"{how},size={size}", "tmpfs", str(folder)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"no disk of its own can be mounted here: {done.stderr.strip()}")
        return folder

    yield hold
    if folder.is_mount():
        subprocess.run(["umount", str(folder)], check=True)


def contents(folder: Path) -> dict[str, bytes]:
    """Every file but how long epochs took."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.stem != "timings")
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def assert_checkpoint_of_epoch(folder: Path, epoch: int) -> None:
    tensors = load_file(folder / "resume.safetensors")
    assert all(torch.isfinite(value).all() for value in tensors.values())
    assert (folder / "timings.jsonl").read_text().count("\n") >= epoch
    assert not list(folder.glob(".*.tmp"))


def assert_same_training(found: Path, expected: Path, weights: str) -> None:
    ours, theirs = load_file(found / weights), load_file(expected / weights)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    rows = [read_table("history", folder / "history.parquet").to_pylist() for folder in (found, expected)]
    assert rows[0] == rows[1]


# Disks


def test_disk_that_fills_up_between_two_checkpoints(
    tmp_path: Path, stage: Stage, checkpoint_sizes: list[int], small_disk: Callable[[int], Path]
) -> None:
    """It holds one checkpoint and not the next beside it."""
    disk = small_disk(4 << 20)
    whole = stage.train(tmp_path / "whole")
    small_disk(round(1.5 * checkpoint_sizes[0]) + (64 << 10))
    full = stage.command(disk / "run")
    assert full.returncode == 1
    assert f"error: {disk}/run/resume.safetensors: cannot be written" in full.stderr
    assert "No space left on device" in full.stderr
    assert "Nothing already computed is lost; make room or access, and run again." in full.stderr
    assert "Traceback" not in full.stderr
    assert_checkpoint_of_epoch(disk / "run", 1)
    small_disk(4 << 20)
    again = stage.command(disk / "run")
    assert again.returncode == 0, again.stderr
    assert "resumed after epoch 1" in again.stderr
    assert_same_training(disk / "run", whole, stage.weights)


@pytest.mark.parametrize("failing", [2, 4])
def test_checkpoint_that_cannot_be_written_leaves_the_one_before(
    tmp_path: Path, stage: Stage, monkeypatch: pytest.MonkeyPatch, failing: int
) -> None:
    whole = stage.train(tmp_path / "whole")
    save, calls = engine.save_checkpoint, []

    def save_half(path: Path, *rest: Any) -> None:
        calls.append(path)
        if len(calls) != failing:
            return save(path, *rest)
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size // 2, before[1]))
        try:
            return save(path, *rest)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)

    with monkeypatch.context() as patched:
        patched.setattr(engine, "save_checkpoint", save_half)
        with pytest.raises(OSError, match="File too large") as failure:
            stage.train(tmp_path / "run")
    assert failure.value.errno == errno.EFBIG
    assert failure.value.filename == str(tmp_path / "run/resume.safetensors")
    assert_checkpoint_of_epoch(tmp_path / "run", failing - 1)
    stage.train(tmp_path / "run")
    assert contents(tmp_path / "run") == contents(whole)


def test_limit_on_the_size_of_files_is_told(
    tmp_path: Path, make_stage: Callable[[str], Stage], checkpoint_sizes: list[int]
) -> None:
    stage = make_stage("finetuning")
    stage.train(tmp_path / "whole")
    done = stage.command(tmp_path / "run", checkpoint_sizes[0] // 2)
    assert done.returncode == 1
    assert f"error: {tmp_path}/run/resume.safetensors: cannot be written" in done.stderr
    assert "File too large" in done.stderr
    assert "Traceback" not in done.stderr


def test_history_that_cannot_be_written_is_named(
    tmp_path: Path, small_disk: Callable[[int], Path], make_stage: Callable[[str], Stage]
) -> None:
    disk = small_disk(8 << 10)  # a page for the folder's entries aside, room for one
    (disk / "run").mkdir()
    (disk / "filler").write_bytes(b"0" * (8 << 10))
    with pytest.raises(OSError, match="No space left on device") as failure:
        make_stage("finetuning").train(disk / "run")
    assert failure.value.filename == str(disk / "run/history.jsonl")


# Memory


def allocate_too_much() -> None:
    torch.empty(TOO_MUCH, dtype=torch.uint8)


def gpu_is_full() -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")


def numpy_is_full() -> None:
    np.empty(TOO_MUCH, np.uint8)


@pytest.mark.parametrize("fill", [allocate_too_much, gpu_is_full, numpy_is_full])
def test_step_that_memory_does_not_hold(
    tmp_path: Path, make_stage: Callable[[str], Stage], monkeypatch: pytest.MonkeyPatch, fill: Any
) -> None:
    """In the third epoch; there are three steps in each."""
    stage = make_stage("finetuning")
    whole = stage.train(tmp_path / "whole")
    loss, calls = CrossEntropy.forward, []

    def forward(self: CrossEntropy, *outputs: Any) -> Any:
        calls.append(1)
        if len(calls) == 8:
            fill()
        return loss(self, *outputs)

    with monkeypatch.context() as patched:
        patched.setattr(CrossEntropy, "forward", forward)
        with pytest.raises(PipelineError) as failure:
            stage.train(tmp_path / "run")
    assert str(failure.value) == (
        "no memory left for a step with batch_size 8, accumulate 1, precision float32. Try precision: "
        "bfloat16, or batch_size: 4 with accumulate: 2, which gives steps of as many images (an objective "
        "that compares the images of a batch sees half of them together), or a smaller network or "
        "smaller images. The last good checkpoint is kept."
    )
    assert_checkpoint_of_epoch(tmp_path / "run", 2)
    stage.train(tmp_path / "run")
    assert contents(tmp_path / "run") == contents(whole)


def test_advice_leaves_out_what_is_already_so(
    tmp_path: Path, make_stage: Callable[[str], Stage], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(CrossEntropy, "forward", lambda *_: gpu_is_full())
    with pytest.raises(PipelineError, match=r"precision bfloat16\. Try a smaller network or smaller images"):
        make_stage("finetuning").train(tmp_path / "run", batch_size=1, precision="bfloat16")


def test_other_errors_are_no_full_memory(
    tmp_path: Path, make_stage: Callable[[str], Stage], monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(*_: Any) -> None:
        torch.ones(2) @ torch.ones(3)

    monkeypatch.setattr(CrossEntropy, "forward", wrong)
    with pytest.raises(RuntimeError, match="inconsistent tensor size") as failure:
        make_stage("finetuning").train(tmp_path / "run")
    assert not is_memory_full(failure.value)


def forward_of_at_most(images: int) -> Callable[[torch.Tensor], tuple[torch.Tensor, ...]]:
    """A forward pass for which memory is full with more images than so many."""

    def forward(batch: torch.Tensor) -> tuple[torch.Tensor, ...]:
        if len(batch) > images:
            allocate_too_much()
        return (batch.mean((2, 3)),)

    return forward


def test_forward_passes_become_smaller_until_memory_holds_them(caplog: pytest.LogCaptureFixture) -> None:
    images = np.random.default_rng(0).integers(0, 256, (30, 6, 6, 3), dtype=np.uint8)
    normalise = Normalisation({"crop": 6, "mean": [0.0] * 3, "std": [1.0] * 3})
    rows = np.random.default_rng(1).permutation(30)
    with caplog.at_level(logging.WARNING, "pipeline"):
        (found,) = forward_all(
            torch.nn.Identity(), forward_of_at_most(5), images, rows, normalise, torch.device("cpu"), 16
        )
    np.testing.assert_allclose(found, images[rows].mean((1, 2)) / 255, rtol=1e-6)
    assert [record.args for record in caplog.records] == [(16, 8), (8, 4)]
    with pytest.raises(PipelineError, match="no memory left for a forward pass of one image"):
        forward_all(
            torch.nn.Identity(), forward_of_at_most(0), images, rows, normalise, torch.device("cpu"), 16
        )
