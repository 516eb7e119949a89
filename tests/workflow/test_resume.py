"""Training steps killed at random moments end with the files of a run that never was."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.backbones.backbone import Description, build_backbone
from pipeline.backbones.files import save_backbone
from pipeline.provenance import Provenance
from pipeline.tables import read_table, write_table

REUSE = {
    "name": "labelled",
    "weight": 1.0,
    "head": "random",
    "batch_size": None,
    "batch_norm": "joint",
    "share": 1.0,
    "draw": 0,
}
EPOCHS = 60
PREPROCESSING = {"resize": 20, "crop": 16, "mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25]}
ARCHITECTURE = {"name": "small_resnet", "widths": [8, 16], "blocks": 1, "stem_stride": 2}
COIN = {
    **{"name": "coin", "share": 0.5, "schedule": "joint"},
    **{"temperature": 0.3, "projection": 8, "hidden": None},
}
RUN = {"backbone": "small", "target": "target", "selection": "some", "recipe": "reuse", "seed": 0}


@dataclass
class Chain:
    """One step, run undisturbed in one folder, and killed again and again in another.

    Attributes:
        arguments: The command after ``python``; ``{folder}`` stands for the output folder.
        outputs: What the rule declares: Snakemake removes it when a job is killed.
        epochs: How many the step trains.
        signals: What ends the step, one after the other.
        beside: Whether to start a second process while the last try runs.
        first_epoch: Epochs of the budget that an earlier stage has made.
    """

    arguments: list[str]
    outputs: list[str]
    epochs: int
    signals: list[signal.Signals]
    beside: bool = False
    first_epoch: int = 0
    ends: list[int] = field(default_factory=list)
    refused: list[tuple[int, str]] = field(default_factory=list)
    logs: list[str] = field(default_factory=list)

    def start(self, folder: Path, log: Path) -> subprocess.Popen[bytes]:
        command = [sys.executable, *(part.format(folder=folder) for part in self.arguments)]
        with log.open("wb") as file:
            return subprocess.Popen(command, stdout=file, stderr=file)

    def undisturbed(self, folder: Path) -> None:
        log = folder.with_suffix(".log")
        assert self.start(folder, log).wait() == 0, log.read_text()

    def disturbed(self, folder: Path, seed: int) -> None:
        """Kill the step at random moments, then let it end; a second one beside it is refused."""
        moments = np.random.default_rng(seed)
        marks = sorted(moments.uniform(0.05, 0.85) for _ in self.signals)
        for number, (ending, mark) in enumerate(zip(self.signals, marks, strict=True)):
            log = folder.with_suffix(f".{number}.log")
            epoch = max(round(mark * self.epochs), self.trained(folder) + 1)
            process = self.start(folder, log)
            self.wait_for(process, folder, epoch, log)
            # Anywhere in an epoch: a training step, the evaluation, a half-written file.
            time.sleep(moments.uniform(0, 0.1))
            process.send_signal(ending)
            self.ends.append(process.wait())
            self.logs.append(log.read_text())
            for output in self.outputs:
                path = folder / output
                shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        log = folder.with_suffix(".last.log")
        process = self.start(folder, log)
        if self.beside:
            self.wait_for(process, folder, self.trained(folder) + 1, log)
            second_log = folder.with_suffix(".second.log")
            process.send_signal(signal.SIGSTOP)
            try:
                second = self.start(folder, second_log).wait()
            finally:
                process.send_signal(signal.SIGCONT)
            self.refused.append((second, second_log.read_text()))
        self.ends.append(process.wait())
        self.logs.append(log.read_text())

    def trained(self, folder: Path) -> int:
        """Epochs in the history that grows while the step runs."""
        lines = folder / "timings.jsonl"
        return lines.read_bytes().count(b"\n") if lines.exists() else 0

    def wait_for(self, process: subprocess.Popen[bytes], folder: Path, epoch: int, log: Path) -> None:
        while self.trained(folder) < epoch:
            assert process.poll() is None, log.read_text()
            time.sleep(0.003)


@pytest.fixture(scope="module")
def chains(
    tmp_path_factory: pytest.TempPathFactory,
    make_dataset: Callable[..., Any],
    training: Callable[..., Any],
    record: Provenance,
    request: pytest.FixtureRequest,
) -> Iterator[dict[str, tuple[Chain, Path, list[Future[None]]]]]:
    """All steps, undisturbed and disturbed, two processes at a time."""
    root = tmp_path_factory.mktemp("resume")
    source = make_dataset(root / "source", classes=6, parts=(20, 4, 0), size=20)
    target = make_dataset(root / "target", classes=4, parts=(24, 5, 5), size=20, seed=1)
    made = steps(root, source, target, training, record, request.config.getoption("kills"))
    for name in made:
        (root / name).mkdir()
    with ThreadPoolExecutor(2) as pool:
        running = {
            name: (
                chain,
                root / name,
                [
                    pool.submit(chain.disturbed, root / name / "killed", seed),
                    pool.submit(chain.undisturbed, root / name / "whole"),
                ],
            )
            for seed, (name, chain) in enumerate(made.items())
        }
        yield running


def steps(
    root: Path, source: Any, target: Any, training: Callable[..., Any], record: Provenance, kills: int
) -> dict[str, Chain]:
    """The three commands that train, with small settings and so many kills in all."""
    weights = root / "weights.safetensors"
    description = Description(ARCHITECTURE, PREPROCESSING, None, ["a", "b"])
    save_backbone(weights, build_backbone(description, 0), record)
    units = {"unit_id": list(range(6)), "name": list("abcdef"), "score": [0.0] * 6, "rank": list(range(1, 7))}
    selection = units | {"selected": [False, True, False, True, True, False]}
    write_table("selection", root / "selection.parquet", selection, record)
    rows = [row for row, split in enumerate(source.split) if split == "train"]
    membership = {"sample_id": [source.ids[row] for row in rows], "unit_id": source.labels[rows]}
    write_table("membership", root / "membership.parquet", membership, record)

    augmentation = training()["augmentation"] | {"padding": 2, "flip": True}
    common = training(
        budget={"epochs": EPOCHS, "iterations": None},
        batch_size=16,
        evaluate_every=1,
        augmentation=augmentation,
    )
    pretraining = {
        "architecture": ARCHITECTURE,
        "preprocessing": PREPROCESSING,
        "keep_epochs": [1, 7, 30],
        "seed": 0,
        "method": common | {"name": "supervised"},
    }
    parts = {"initialise": COIN, "batch_norm": "trained", "fit_on": ["train"], "may_diverge": False}
    contrastive = augmentation | {"resized_crop": [0.3, 1.0], "colour_jitter": 0.4, "grey": 0.2}
    first = common | parts | {"augmentation": contrastive, "seed": 0}
    second = (
        common
        | parts
        | {
            "budget": {"epochs": 2 * EPOCHS, "iterations": None},
            "objective": {"name": "cross_entropy", "label_smoothing": 0.0},
            "reuse": REUSE,
            "trainable": "all",
            "from_scratch": False,
            "checkpoint": "best",
            "predict": ["validation", "test"],
            "until": 1.0,
            "keep_epochs": [EPOCHS + 1],
            "run": RUN,
        }
    )
    reuse = [
        *("--source-manifest", str(source.manifest), "--source-images", str(source.images)),
        *("--membership", str(root / "membership.parquet"), "--selection", str(root / "selection.parquet")),
    ]
    kill, term = signal.SIGKILL, signal.SIGTERM
    tables = ["history.parquet", "timings.parquet", "distances.parquet"]

    def command(step: str, *paths: Path | str, values: dict[str, Any]) -> list[str]:
        settings = json.dumps(values).replace("{", "{{").replace("}", "}}")
        return ["-m", f"pipeline.{step}", *map(str, paths), "--settings", settings]

    start = (*target.paths, weights, "{folder}")
    return {
        "finetuning": Chain(
            command("finetuning", *start, *reuse, values=second),
            ["model.safetensors", "checkpoints", "predictions.parquet", "features.parquet", *tables],
            EPOCHS,
            [kill, term, *[kill] * (kills - 1 - 2 * (kills // 3))],
            first_epoch=EPOCHS,
        ),
        "pretraining": Chain(
            command("pretraining", *source.paths, "{folder}", values=pretraining),
            ["weights.safetensors", "checkpoints", *tables],
            EPOCHS,
            [kill] * (kills // 3),
            beside=True,
        ),
        "initialisation": Chain(
            command("initialisation", *start, values=first | {"budget": second["budget"]}),
            ["weights.safetensors", "carried.safetensors", *tables],
            EPOCHS,
            [kill] * (kills // 3),
        ),
    }


@pytest.mark.parametrize("step", ["finetuning", "pretraining", "initialisation"])
def test_killed_training_ends_bit_for_bit(chains: dict[str, Any], step: str) -> None:
    chain, folder, futures = chains[step]
    for future in futures:
        future.result()
    assert chain.ends == [*(-ending for ending in chain.signals), 0], chain.logs[-1]
    # Each try after the first went on from a checkpoint.
    assert all("resumed after epoch" in log for log in chain.logs[1:])
    assert len(chain.refused) == chain.beside
    for status, log in chain.refused:
        assert status == 1
        assert "killed: another process is training here" in log
    whole, disturbed = files(folder / "whole"), files(folder / "killed")
    assert set(disturbed) == set(whole)
    assert {path.split("/")[0] for path in whole} == set(chain.outputs)
    for name, content in whole.items():
        if name != "timings.parquet":
            assert disturbed[name] == content, name
    for name in ("whole", "killed"):
        timings = read_table("timings", folder / name / "timings.parquet")
        epochs = range(chain.first_epoch + 1, chain.first_epoch + chain.epochs + 1)
        assert timings["epoch"].to_pylist() == list(epochs)


def files(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, hidden ones too."""
    return {os.path.relpath(path, folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_as_many_kills_as_asked_for(chains: dict[str, Any], request: pytest.FixtureRequest) -> None:
    signals = [ending for chain, _, _ in chains.values() for ending in chain.signals]
    assert signals.count(signal.SIGKILL) == request.config.getoption("kills")
    assert signal.SIGTERM in signals
