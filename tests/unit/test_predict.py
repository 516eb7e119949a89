"""Classifying images of one's own: the run's own numbers, files that are none, and the tables."""

import csv
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow.parquet as parquet
import pytest

from pipeline.backbones.backbone import Description, build_backbone
from pipeline.backbones.files import load_backbone, save_backbone
from pipeline.errors import PipelineError
from pipeline.predict import classify as module
from pipeline.predict.classify import classify
from pipeline.predict.model import load_classifier
from pipeline.predict.output import as_text, require_format
from pipeline.provenance import Provenance, digest_of_file
from pipeline.tables import feature_matrix, read_table

if TYPE_CHECKING:
    from .conftest import TrainedRun

pytestmark = pytest.mark.usefixtures("torch_as_before")


def command(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    call = [sys.executable, "-m", "pipeline.predict", *map(str, arguments)]
    return subprocess.run(call, capture_output=True, text=True)


@pytest.mark.parametrize("threads", [1, 2])
def test_original_files_get_the_probabilities_of_the_run(
    trained_run: "TrainedRun", threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over formats, modes, shapes and orientations; in batches that images are spread over."""
    monkeypatch.setattr(module, "BATCH", 4)
    expected = read_table("predictions", trained_run.folder / "predictions.parquet")
    files = [trained_run.images / sample for sample in expected["sample_id"].to_pylist()]
    assert len(files) == 24
    found = classify(trained_run.model, files, threads)
    assert (found.files, found.failures) == ([str(file) for file in files], [])
    by_class = np.empty((len(files), 3), np.float32)
    np.put_along_axis(by_class, found.classes, found.probabilities, 1)
    probabilities = feature_matrix(expected, "probabilities")
    np.testing.assert_allclose(by_class, probabilities, rtol=1e-4, atol=1e-6)
    assert found.classes[:, 0].tolist() == expected["prediction"].to_pylist()
    # Else any model would do.
    assert probabilities.std(0).min() > 1e-3
    assert len(set(expected["prediction"].to_pylist())) > 1


def test_the_most_probable_classes_come_first_also_where_one_has_all(
    tmp_path: Path, trained_run: "TrainedRun", record: Provenance
) -> None:
    """Logits 1000 apart leave probabilities of 1, 0 and 0."""
    model = load_backbone(trained_run.model)
    assert model.head is not None
    model.head.weight.data.zero_()
    model.head.bias.data.copy_(model.head.bias.new_tensor([-1000.0, 1000.0, 0.0]))
    save_backbone(tmp_path / "sure.safetensors", model, record)
    found = classify(tmp_path / "sure.safetensors", [trained_run.images / "test" / "cat"], top=2)
    assert found.classes.tolist() == [[1, 2]] * 5
    assert found.probabilities.tolist() == [[1.0, 0.0]] * 5


def test_the_command_goes_on_where_a_file_is_no_image(tmp_path: Path, trained_run: "TrainedRun") -> None:
    folder = tmp_path / "mixed"
    shutil.copytree(trained_run.images / "test" / "cat", folder / "deeper")
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    (folder / "notes.txt").write_text("left alone, since it is in a folder")
    (tmp_path / "empty").mkdir()
    text = tmp_path / "text.jpg"
    text.write_text("no image")
    missing = tmp_path / "missing.png"
    output = tmp_path / "table.csv"
    done = command(trained_run.model, folder, text, missing, tmp_path / "empty", "--output", output)
    assert done.returncode == 1
    assert done.stdout == ""
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert errors[-1] == "error: 4 of 9 could not be classified"
    for path, message in [
        (folder / "broken.png", "not an image"),
        (text, "not an image"),
        (missing, "cannot read"),
        (tmp_path / "empty", "no image in this folder"),
    ]:
        assert sum(str(path) in line and message in line for line in errors) == 1
    rows = list(csv.DictReader(output.read_text(encoding="utf-8").splitlines()))
    assert [row["path"] for row in rows] == sorted(map(str, (folder / "deeper").iterdir()))


def test_the_table_is_the_same_as_parquet_csv_and_text(tmp_path: Path, trained_run: "TrainedRun") -> None:
    images = trained_run.images / "val"
    for name in ("table.parquet", "table.csv"):
        done = command(trained_run.model, images, "--output", tmp_path / name)
        assert (done.returncode, done.stdout) == (0, "")
    table = read_table("classified", tmp_path / "table.parquet")
    columns = ["path", "prediction", "probability"]
    columns += ["prediction_2", "probability_2", "prediction_3", "probability_3"]
    assert table.column_names == columns
    found = classify(trained_run.model, [images])
    names = [[found.class_names[number] for number in row] for row in found.classes]
    assert table["prediction_3"].to_pylist() == [row[2] for row in names]
    np.testing.assert_allclose(table["probability_2"].to_numpy(), found.probabilities[:, 1], atol=1e-6)
    rows = list(csv.DictReader((tmp_path / "table.csv").read_text(encoding="utf-8").splitlines()))
    for row, expected in zip(rows, table.to_pylist(), strict=True):
        assert row["prediction"] == expected["prediction"]
        assert np.float32(row["probability"]) == np.float32(expected["probability"])
    made_by = parquet.read_schema(tmp_path / "table.parquet").metadata[b"graftune"].decode()
    assert digest_of_file(trained_run.model) in made_by
    printed = command(trained_run.model, images)
    assert (printed.returncode, printed.stdout.splitlines()) == (0, as_text(found))
    _, first, *_ = as_text(found)
    shares = [f"{share:.1%}" for share in found.probabilities[0]]
    next_ones = f"{names[0][1]} {shares[1]}, {names[0][2]} {shares[2]}"
    assert first.split() == f"{found.files[0]} {names[0][0]} {shares[0]} {next_ones}".split()


def test_what_is_no_classifier_is_named(
    tmp_path: Path, trained_run: "TrainedRun", record: Provenance
) -> None:
    with pytest.raises(PipelineError, match=r"gone\.safetensors: no such model file"):
        load_classifier(tmp_path / "gone.safetensors")
    headless = trained_run.results / "backbones" / "small" / "weights.safetensors"
    with pytest.raises(
        PipelineError, match=r"weights\.safetensors: these weights have no classification head"
    ):
        load_classifier(headless)
    (tmp_path / "text.safetensors").write_text("no weights at all")
    with pytest.raises(PipelineError, match=r"text\.safetensors: not a readable safetensors file"):
        load_classifier(tmp_path / "text.safetensors")
    description = load_backbone(trained_run.model).description
    unsaid = Description(description.architecture, {"resize": 8, "mean": [], "std": []}, None, ["a"])
    save_backbone(tmp_path / "unsaid.safetensors", build_backbone(unsaid, 0), record)
    with pytest.raises(PipelineError, match=r"unsaid\.safetensors: its preprocessing does not say crop"):
        load_classifier(tmp_path / "unsaid.safetensors")


@pytest.mark.parametrize("name", ["table.xlsx", "table"])
def test_another_format_is_refused_before_any_image_is_read(name: str, trained_run: "TrainedRun") -> None:
    with pytest.raises(PipelineError, match=r"expected \.parquet or \.csv"):
        require_format(Path(name))
    done = command(trained_run.model, trained_run.images, "--output", name)
    assert done.returncode == 1
    assert "classifying" not in done.stderr
