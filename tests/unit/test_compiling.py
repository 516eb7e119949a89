"""Compiled training: within rounding of plain training, the same files, and clear where nothing compiles."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch._dynamo.utils import counters

from pipeline.backbones.backbone import Description, build_backbone
from pipeline.backbones.files import save_backbone
from pipeline.finetuning.finetune import finetune
from pipeline.provenance import Provenance
from pipeline.tables import read_table

pytestmark = pytest.mark.usefixtures("torch_as_before")

DESCRIPTION = Description(
    architecture={"name": "small_resnet", "widths": [4, 6], "blocks": 1, "stem_stride": 1},
    preprocessing={"resize": 10, "crop": 10, "mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25]},
)
OBJECTIVES = {
    "cross_entropy": {"name": "cross_entropy", "label_smoothing": 0.0},
    # It reads layers inside the encoder, by hooks.
    "delta": {
        **{"name": "delta", "alpha": 1e-3, "beta": 0.01, "layers": None, "normalise": True},
        **{"attention": False, "attention_images": 4},
    },
}


@pytest.fixture(scope="module")
def files(
    tmp_path_factory: pytest.TempPathFactory, make_dataset: Callable[..., Any], record: Provenance
) -> tuple[Path, Path, Path]:
    """Manifest, images and backbone; 24 training images."""
    folder = tmp_path_factory.mktemp("compiling")
    save_backbone(folder / "weights.safetensors", build_backbone(DESCRIPTION, 3), record)
    return (*make_dataset(folder / "target", seed=1).paths, folder / "weights.safetensors")


@pytest.fixture
def compiler() -> Iterator[None]:
    """Skips where there is none; what was compiled is forgotten before and after."""
    if shutil.which(os.environ.get("CXX", "g++")) is None:
        pytest.skip("no C++ compiler here (g++)")
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def history(folder: Path) -> dict[tuple[str, int, str], float]:
    rows = read_table("history", folder / "history.parquet").to_pylist()
    return {(row["split"], row["epoch"], row["metric"]): row["value"] for row in rows}


@pytest.mark.usefixtures("compiler")
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_compiled_training_is_plain_training_within_rounding(
    tmp_path: Path,
    files: tuple[Path, Path, Path],
    tuning: Callable[..., dict[str, Any]],
    record: Provenance,
    objective: str,
) -> None:
    """And in two parts, bit for bit what it is in one."""
    settings = tuning(objective=OBJECTIVES[objective], evaluate_every=1)

    def train(name: str, **changes: Any) -> Path:
        state = tmp_path / "state" if name == "parts" else None
        finetune(*files, tmp_path / name, None, settings | changes, record, state)
        return tmp_path / name

    plain = train("plain")
    counters.clear()
    compiled = train("compiled", compile=True)
    assert counters["stats"]["unique_graphs"] >= 1
    found, expected = history(compiled), history(plain)
    assert found == pytest.approx(expected, rel=1e-4, abs=1e-6)
    models = [load_file(folder / "model.safetensors") for folder in (compiled, plain)]
    assert models[0].keys() == models[1].keys()
    for name, value in models[1].items():
        torch.testing.assert_close(models[0][name], value, rtol=1e-3, atol=1e-5)
    train("parts", compile=True, until=1 / 3)
    parts = load_file(train("parts", compile=True) / "model.safetensors")
    assert all(torch.equal(parts[name], value) for name, value in models[0].items())


def test_machine_without_a_compiler_is_told(
    tmp_path: Path, files: tuple[Path, Path, Path], tuning: Callable[..., dict[str, Any]]
) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU here, for which another compiler compiles")
    nowhere = {"CXX": "/no/such/g++", "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache")}
    command = [sys.executable, "-m", "pipeline.finetuning", *map(str, files), str(tmp_path / "run")]
    done = subprocess.run(
        [*command, "--settings", json.dumps(tuning(compile=True))],
        capture_output=True,
        text=True,
        env=os.environ | nowhere,
        timeout=300,
    )
    assert done.returncode == 1
    assert "error: compile: true needs a C++ compiler on the machine that trains" in done.stderr
    assert "install g++, or set compile: false" in done.stderr
    assert "Traceback" not in done.stderr
