"""Several processes that train together: the joint batch's loss and gradients, one writer, clear refusals."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from pipeline.backbones.backbone import Description, build_backbone
from pipeline.backbones.files import load_backbone, save_backbone
from pipeline.config.loading import complete_settings
from pipeline.engine.device import prepare_device
from pipeline.errors import PipelineError
from pipeline.provenance import Provenance
from pipeline.tables import feature_matrix, read_table

DESCRIPTION = Description(
    architecture={"name": "small_resnet", "widths": [4, 6], "blocks": 1, "stem_stride": 1},
    preprocessing={"resize": 10, "crop": 10, "mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25]},
    class_names=["class 0", "class 1"],
)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory, record: Provenance) -> Path:
    path = tmp_path_factory.mktemp("backbone") / "weights.safetensors"
    save_backbone(path, build_backbone(DESCRIPTION, seed=3), record)
    return path


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory, make_dataset: Callable[..., Any]) -> Any:
    """23 training images, so that a last batch is uneven, 9 validation and 9 test images."""
    return make_dataset(tmp_path_factory.mktemp("target"), seed=1)


def settings_of(gpu: int, **changes: Any) -> dict[str, Any]:
    recipe = {
        "budget": {"epochs": 3},
        "batch_size": 7,
        "gpu": gpu,
        "batch_norm": "frozen",
        "evaluate_every": 1,
        "augmentation": {"padding": 1},
        **changes,
    }
    settings = complete_settings("recipes", recipe, "")
    given = {"fit_on": ["train"], "predict": ["validation", "test"], "chosen": [], "may_diverge": False}
    for key in ("search", "take", "tuned"):
        settings.pop(key, None)
    return {**settings, **given, "until": 1.0, "run": {"seed": 0}}


def launch(
    processes: int, target: Any, weights: Path, folder: Path, settings: dict[str, Any]
) -> subprocess.CompletedProcess[str]:
    """Fine-tune in so many processes."""
    command, environment = joint_command(processes, target, weights, folder, settings)
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)


def joint_command(
    processes: int, target: Any, weights: Path, folder: Path, settings: dict[str, Any]
) -> tuple[list[str], dict[str, str]]:
    """The command that does so, and its environment."""
    torchrun = ["torch.distributed.run", "--standalone", "--nproc-per-node", str(processes), "-m"]
    command = [sys.executable, "-m", *(torchrun if processes > 1 else []), "pipeline.finetuning"]
    paths = [target.manifest, target.images, weights, folder]
    # Of a SLURM job these say how many tasks there are, which is not how many processes train together.
    environment = {**os.environ, "SLURM_NTASKS": "1", "SLURM_PROCID": "0"}
    return [*command, *map(str, paths), "--settings", json.dumps(settings)], environment


def history(folder: Path) -> dict[tuple[str, int, str], float]:
    rows = read_table("history", folder / "history.parquet").to_pylist()
    return {(row["split"], row["epoch"], row["metric"]): row["value"] for row in rows}


OBJECTIVES: dict[str, dict[str, Any]] = {
    "cross_entropy": {"name": "cross_entropy"},
    "core_tuning": {"name": "core_tuning", "alpha": 0.5},
    "bi_tuning": {"name": "bi_tuning", "queue": 5},
    "delta": {"name": "delta", "attention_images": 4},
    "bss": {"name": "bss", "weight": 0.1},
}


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_two_processes_train_as_one_with_the_joint_batch(
    tmp_path: Path, target: Any, weights: Path, objective: str
) -> None:
    for processes in (1, 2):
        settings = settings_of(processes, objective=OBJECTIVES[objective], accumulate=2)
        done = launch(processes, target, weights, tmp_path / str(processes), settings)
        assert done.returncode == 0, done.stderr
    alone, together = history(tmp_path / "1"), history(tmp_path / "2")
    assert alone.keys() == together.keys()
    for key, value in alone.items():
        assert together[key] == pytest.approx(value, rel=2e-5, abs=1e-6), key
    first, second = (
        read_table("predictions", tmp_path / name / "predictions.parquet") for name in ("1", "2")
    )
    assert first["sample_id"] == second["sample_id"]
    np.testing.assert_allclose(
        feature_matrix(first, "probabilities"), feature_matrix(second, "probabilities"), atol=1e-4
    )
    models = [load_backbone(tmp_path / name / "model.safetensors").state_dict() for name in ("1", "2")]
    for name, value in models[0].items():
        torch.testing.assert_close(models[1][name], value, rtol=1e-3, atol=1e-5)
    timings = [
        read_table("timings", tmp_path / name / "timings.parquet")["images"].to_pylist()
        for name in ("1", "2")
    ]
    assert timings[0] == timings[1]


def test_statistics_of_batches_are_not_shared_without_gpus(
    tmp_path: Path, target: Any, weights: Path
) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU here, on which batch normalisation shares its statistics")
    done = launch(2, target, weights, tmp_path / "run", settings_of(2, batch_norm="trained"))
    assert done.returncode != 0
    errors = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert len(errors) == 1  # one process speaks for both
    assert "set batch_norm: frozen" in errors[0]


def test_the_number_of_processes_is_asserted(tmp_path: Path, target: Any, weights: Path) -> None:
    with pytest.raises(PipelineError, match="gpu: 4 asks for 4 processes that train together, and 1 started"):
        prepare_device(1, 4)
    done = launch(2, target, weights, tmp_path / "run", settings_of(1))
    assert done.returncode != 0
    assert "gpu: 1 asks for 1 processes that train together, and 2 started" in done.stderr


def worker_of(launcher: int, rank: int) -> int | None:
    """The process of a rank that torchrun started; None before it is there."""
    for child in Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split():
        if f"\0RANK={rank}\0".encode() in Path(f"/proc/{child}/environ").read_bytes():
            return int(child)
    return None


def killed(rank: int, target: Any, weights: Path, folder: Path, settings: dict[str, Any]) -> tuple[int, str]:
    """Kill a process of two once one more epoch is done; torchrun's status and what all of them said."""
    command, environment = joint_command(2, target, weights, folder, settings)
    checkpoint, lines = folder / "resume.safetensors", folder / "timings.jsonl"

    def epochs() -> int:
        return lines.read_bytes().count(b"\n") if checkpoint.exists() else 0

    log = folder.with_suffix(f".{rank}.log")
    with log.open("wb") as output:
        before = epochs()
        with subprocess.Popen(command, stdout=output, stderr=output, env=environment) as launcher:
            deadline = time.monotonic() + 120
            while epochs() <= before:
                assert launcher.poll() is None, log.read_text()
                assert time.monotonic() < deadline
                time.sleep(0.01)
            worker = worker_of(launcher.pid, rank)
            assert worker is not None
            os.kill(worker, signal.SIGKILL)
            status = launcher.wait(60)
    return status, log.read_text()


def test_job_with_a_killed_process_ends_and_goes_on(tmp_path: Path, target: Any, weights: Path) -> None:
    """Whichever of the two it is: the other waits for it in vain, and does not do so for ever."""
    if not Path("/proc/self/task").exists():
        pytest.skip("which process has which rank is read from /proc, and there is none")
    settings = settings_of(2, budget={"epochs": 25})
    for rank in (1, 0):
        status, said = killed(rank, target, weights, tmp_path / "killed", settings)
        assert status == 1
        assert "Signal 9 (SIGKILL) received" in said, said
        # The launcher ends the other one, before or after that has said that it is alone.
        assert "[rank0]: Traceback" not in said
        assert "[rank1]: Traceback" not in said
        assert load_file(tmp_path / "killed/resume.safetensors")
    for name in ("killed", "whole"):
        done = launch(2, target, weights, tmp_path / name, settings)
        assert done.returncode == 0, done.stderr
        assert ("resumed after epoch" in done.stderr) == (name == "killed")
    models = [load_file(tmp_path / name / "model.safetensors") for name in ("killed", "whole")]
    assert all(torch.equal(models[0][name], value) for name, value in models[1].items())
    assert history(tmp_path / "killed") == history(tmp_path / "whole")
