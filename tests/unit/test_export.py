"""Taking a model away: a whole file, a card that tells the truth and whose code runs, and ONNX."""

import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from safetensors import safe_open

from pipeline.backbones.backbone import Description, build_backbone
from pipeline.backbones.files import load_backbone, save_backbone
from pipeline.errors import PipelineError
from pipeline.export.card import plain
from pipeline.export.export import export
from pipeline.export.origins import find_origins
from pipeline.predict.classify import classify
from pipeline.provenance import Provenance, digest_of_file, read_provenance
from pipeline.tables import read_table, write_table

if TYPE_CHECKING:
    from .conftest import TrainedRun

pytestmark = pytest.mark.usefixtures("torch_as_before")


def code_of(card: Path) -> list[str]:
    """The Python in a card, block by block."""
    return re.findall(r"```python\n(.*?)```", card.read_text(encoding="utf-8"), re.DOTALL)


def run_code(folder: Path, *blocks: str) -> tuple[str, float]:
    """The class and the probability that code prints, run in an export's folder."""
    code = "\n".join(blocks)
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    name, _, probability = done.stdout.strip().rpartition(" ")
    return name, float(probability)


def a_run(folder: Path, description: Description, **settings: object) -> Path:
    """A model that says it is a run's, with random weights."""
    keys = {"backbone": "some", "target": "any", "selection": "none", "recipe": "plain", "seed": 1}
    record = Provenance("pipeline.finetuning", {"run": keys, **settings}, "pipeline.finetuning=01", {}, {})
    save_backbone(folder / "model.safetensors", build_backbone(description, 5), record)
    return folder


def test_the_folder_holds_the_model_as_it_is(tmp_path: Path, trained_run: "TrainedRun") -> None:
    (tmp_path / "model.onnx").write_text("of another model")
    written = export(trained_run.folder, tmp_path)
    assert written == [tmp_path / "model.safetensors", tmp_path / "README.md"]
    assert sorted(tmp_path.iterdir()) == sorted(written)
    assert written[0].read_bytes() == trained_run.model.read_bytes()
    with safe_open(written[0], "np") as file:
        description = json.loads(file.metadata()["backbone"])
        record = json.loads(file.metadata()["graftune"])
    assert description["class_names"] == ["cat", "dog | <b>wolf<-b>", "owl"]
    assert description["preprocessing"] == {
        **{"resize": 25, "crop": 20},
        **{"mean": [0.5, 0.4, 0.6], "std": [0.25, 0.3, 0.2]},
    }
    assert record["settings"]["optimiser"]["learning_rate"] == 0.05
    # The model alone gives the same card, since the run is found beside it.
    export(trained_run.model, tmp_path / "again")
    assert (tmp_path / "again" / "README.md").read_text() == written[1].read_text()


def test_the_card_says_what_the_tables_say(tmp_path: Path, trained_run: "TrainedRun") -> None:
    export(trained_run.folder, tmp_path)
    card = (tmp_path / "README.md").read_text(encoding="utf-8")
    rows = read_table("metrics", trained_run.folder / "metrics.parquet").to_pylist()
    found = {(row["split"], row["metric"]): row["value"] for row in rows}
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in card.splitlines()]
    shown = {line[0]: line[1:] for line in lines if len(line) == 3}
    parts = shown["metric"]
    assert sorted(parts) == ["test", "validation"]
    for part, images in (("validation", 9), ("test", 15)):
        values = {name: cells[parts.index(part)] for name, cells in shown.items()}
        assert int(values["images"]) == images
        assert float(values["top-1 accuracy, %"]) == pytest.approx(100 * found[part, "top1"], abs=0.051)
        assert float(values["S_Dbw"]) == pytest.approx(found[part, "s_dbw"], abs=0.00051)
        likelihood = found[part, "negative_log_likelihood"]
        assert float(values["negative log-likelihood"]) == pytest.approx(likelihood, abs=0.00051)
    assert "| target, fine-tuned on | shapes | 15 | 9 | 15 |" in card
    assert "    0  cat\n    1  dog | <b>wolf<-b>\n    2  owl\n" in card
    assert "| batch size | 8 |" in card
    assert "    weights: Made_Up.WEIGHTS" in card
    assert "chosen the checkpoint (best), optimiser.learning_rate, so its metrics flatter" in card
    parameters = sum(value.numel() for value in load_backbone(trained_run.model).parameters())
    assert f"{parameters:,} parameters" in card
    record = read_provenance(trained_run.model)
    assert record is not None
    assert f"record `{record.digest()}`" in card
    assert f"torch {record.versions['torch']}" in card
    # No path of this machine, and nothing left of the template.
    assert str(tmp_path.parent) not in card
    assert not re.search(r"\{[{%]|\n\n\n", re.sub(r"```.*?```", "code", card, flags=re.DOTALL))
    lines = card.splitlines()
    tables = [n for n, line in enumerate(lines) if line.startswith("|-")]
    for number in tables:
        columns = lines[number].count("|")
        assert lines[number - 1].count("|") == columns
        assert lines[number + 1].count("|") == columns


def test_the_code_of_the_card_classifies_as_the_run_did(tmp_path: Path, trained_run: "TrainedRun") -> None:
    export(trained_run.folder, tmp_path)
    photo = trained_run.images / "test" / "cat" / "1.jpg"
    shutil.copyfile(photo, tmp_path / "photo.jpg")
    expected = classify(trained_run.model, [photo])
    with_package, prepare = code_of(tmp_path / "README.md")
    name, probability = run_code(tmp_path, with_package)
    assert name == expected.class_names[expected.classes[0, 0]]
    assert probability == pytest.approx(expected.probabilities[0, 0], rel=1e-4)
    assert "def pixels_of" in prepare
    assert "--onnx` adds" in (tmp_path / "README.md").read_text()


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small"])
def test_the_code_for_torchvision_needs_nothing_of_this_project(
    tmp_path: Path, trained_run: "TrainedRun", name: str
) -> None:
    preprocessing = {"resize": 50, "crop": 43, "mean": [0.4, 0.5, 0.6], "std": [0.2, 0.3, 0.4]}
    names = ["a", "b", "c", "d"]
    description = Description({"name": "torchvision", "model": name}, preprocessing, None, names)
    run = a_run(tmp_path / "run", description)
    export(run, tmp_path / "out")
    photo = trained_run.images / "test" / "owl" / "1.jpg"
    shutil.copyfile(photo, tmp_path / "out" / "photo.jpg")
    _, prepare, with_torchvision = code_of(tmp_path / "out" / "README.md")
    assert "pipeline" not in prepare + with_torchvision
    expected = classify(run / "model.safetensors", [photo])
    name, probability = run_code(tmp_path / "out", prepare, with_torchvision)
    assert name == names[expected.classes[0, 0]]
    assert probability == pytest.approx(expected.probabilities[0, 0], rel=1e-4)
    card = (tmp_path / "out" / "README.md").read_text()
    assert "None were found beside the model." in card
    assert "No test part was evaluated." in card


def test_pixels_are_those_that_a_run_sees(tmp_path: Path, trained_run: "TrainedRun") -> None:
    """The card's own preparation, over shapes and orientations that a crop of a crop could shift."""
    from pipeline.images.decode import decode_image, to_square

    export(trained_run.folder, tmp_path)
    _, prepare = code_of(tmp_path / "README.md")
    scope: dict[str, object] = {}
    exec(prepare, scope)  # noqa: S102
    for path in sorted((trained_run.images / "test" / "dog | <b>wolf<-b>").iterdir()):
        if path.name != "2.png":  # transparent
            square = np.asarray(to_square(decode_image(path, "x"), 25))
            # torchvision's CenterCrop: round(2.5) is 2.
            expected = square[2:22, 2:22].transpose(2, 0, 1)
            np.testing.assert_array_equal(scope["pixels_of"](path), expected)  # type: ignore[operator]


def test_a_results_folder_that_has_moved_on_says_nothing(tmp_path: Path, trained_run: "TrainedRun") -> None:
    record = read_provenance(trained_run.model)
    assert record is not None
    found = find_origins(trained_run.folder, record)
    assert found.target is not None
    assert found.backbone is not None
    assert found.target.path == trained_run.results / "datasets" / "shapes" / "manifest.parquet"
    assert (found.pretraining, found.source, found.selection) == (None,) * 3
    moved = replace(record, inputs=dict.fromkeys(record.inputs, "0123456789abcdef"))
    nothing = find_origins(trained_run.folder, moved)
    assert set(vars(nothing).values()) == {None}
    assert set(vars(find_origins(tmp_path, record)).values()) == {None}


def test_origins_are_followed_through_first_stage_and_kept_epoch(tmp_path: Path) -> None:
    """A backbone that is an epoch of another's pre-training, and source, selection and stage 1."""
    results = tmp_path / "results"
    description = Description(
        {"name": "small_resnet", "widths": [2], "blocks": 1, "stem_stride": 1},
        {"resize": 4, "crop": 4, "mean": [0.5] * 3, "std": [0.5] * 3},
    )

    def weights(place: str, step: str, **inputs: Path) -> Path:
        path = results / place
        digests = {name: digest_of_file(value) for name, value in inputs.items()}
        save_backbone(path, build_backbone(description, 0), Provenance(step, {"made": place}, "", digests))
        return path

    source = results / "datasets" / "big" / "manifest.parquet"
    chosen = results / "selections" / "early" / "big" / "any" / "uot.parquet"
    for kind, path in (("manifest", source), ("selection", chosen)):
        write_table(kind, path, _empty(kind), Provenance(kind, {"of": path.stem}, "", {}))
    checkpoint = weights("backbones/late/checkpoints/epoch_0001.safetensors", "x", manifest=source)
    weights("backbones/late/weights.safetensors", "x", manifest=chosen)
    backbone = weights("backbones/early/weights.safetensors", "y", weights=checkpoint)
    first = weights("initialisations/early/any/coin-1/seed0/weights.safetensors", "z", weights=backbone)
    run = results / "runs" / "early" / "any" / "uot" / "reuse" / "seed0"
    inputs = {"weights": first, "source": source, "selection": chosen}
    record = Provenance(
        "pipeline.finetuning",
        {"run": {"backbone": "early", "target": "any"}},
        "",
        {name: digest_of_file(path) for name, path in inputs.items()},
    )
    found = find_origins(run, record)
    named = {name: origin and origin.path for name, origin in vars(found).items()}
    assert named == {
        **{"target": None, "backbone": backbone},
        **{"pretraining": source, "source": source, "selection": chosen},
    }


def _empty(kind: str) -> dict[str, list[object]]:
    from pipeline.tables import SCHEMAS

    return {name: [] for name in SCHEMAS[kind].columns}


def test_what_cannot_be_taken_away(tmp_path: Path, trained_run: "TrainedRun") -> None:
    (tmp_path / "file").touch()
    with pytest.raises(PipelineError, match=r"file: this is a file; expected a folder"):
        export(trained_run.folder, tmp_path / "file")
    with pytest.raises(PipelineError, match="the model lies here; expected another folder"):
        export(trained_run.folder, trained_run.folder)
    pretrained = build_backbone(load_backbone(trained_run.model).description, 0)
    save_backbone(tmp_path / "a.safetensors", pretrained, Provenance("pipeline.pretraining", {}, "", {}))
    with pytest.raises(PipelineError, match=r"expected the model of a run; .* made by pipeline\.pretraining"):
        export(tmp_path / "a.safetensors", tmp_path / "out")
    with pytest.raises(PipelineError, match=r"gone/?: no such model|gone.*no such model file"):
        export(tmp_path / "gone", tmp_path / "out")
    copied = tmp_path / "copied"
    shutil.copytree(trained_run.folder, copied)
    save_backbone(
        copied / "model.safetensors", pretrained, Provenance("x", {"run": {"backbone": "b"}}, "", {})
    )
    with pytest.raises(PipelineError, match=r"metrics\.parquet: metrics of another model than"):
        export(copied, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_markdown_is_escaped() -> None:
    assert plain("a|b <i> my_name_ [x](y) `c` *d*\n") == r"a\|b \<i\> my_name\_ \[x\](y) \`c\` \*d\*"


def test_onnx_without_its_packages_says_how_to_get_them(
    tmp_path: Path, trained_run: "TrainedRun", monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(PipelineError, match=r"needs onnx, onnxscript, onnxruntime, .* pip install onnx onnx"):
        export(trained_run.folder, tmp_path / "out", onnx=True)
    assert not (tmp_path / "out").exists()


@pytest.fixture(scope="module")
def with_onnx(tmp_path_factory: pytest.TempPathFactory, trained_run: "TrainedRun") -> Path:
    """An export with ONNX; skips where its packages are not installed."""
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package)
    folder = tmp_path_factory.mktemp("exported")
    export(trained_run.folder, folder, onnx=True)
    return folder


def test_onnx_gives_the_run_s_probabilities_by_the_code_of_the_card(
    with_onnx: Path, trained_run: "TrainedRun"
) -> None:
    photo = trained_run.images / "test" / "owl" / "1.jpg"
    shutil.copyfile(photo, with_onnx / "photo.jpg")
    expected = classify(trained_run.model, [photo])
    _, prepare, with_runtime = code_of(with_onnx / "README.md")
    assert "pipeline" not in prepare + with_runtime
    name, probability = run_code(with_onnx, prepare, with_runtime)
    assert name == expected.class_names[expected.classes[0, 0]]
    assert probability == pytest.approx(expected.probabilities[0, 0], rel=1e-4)


def test_onnx_takes_any_number_of_images_and_describes_itself(
    with_onnx: Path, trained_run: "TrainedRun"
) -> None:
    import onnx
    import onnxruntime

    onnx.checker.check_model(onnx.load(with_onnx / "model.onnx"), full_check=True)
    session = onnxruntime.InferenceSession(with_onnx / "model.onnx")
    model = load_backbone(trained_run.model).eval()
    assert model.head is not None
    mean, std = (
        torch.tensor(model.description.preprocessing[name])[:, None, None] for name in ("mean", "std")
    )
    for count in (1, 7):
        pixels = np.random.default_rng(count).integers(0, 256, (count, 3, 20, 20), np.uint8)
        logits, probabilities = session.run(["logits", "probabilities"], {"pixels": pixels})
        with torch.no_grad():
            expected = model.head(model((torch.from_numpy(pixels) / 255 - mean) / std))
        np.testing.assert_allclose(logits, expected.numpy(), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(probabilities, expected.softmax(1).numpy(), atol=1e-5)
    said = session.get_modelmeta().custom_metadata_map
    assert json.loads(said["class_names"]) == model.description.class_names
    assert json.loads(said["preprocessing"])["resize"] == 25
    record = read_provenance(trained_run.model)
    assert record is not None
    assert said["graftune"] == record.to_json()
    card = (with_onnx / "README.md").read_text()
    compared = re.search(r"on 16 random images and 16 of shapes: logits .* most (\S+), .* most (\S+)\.", card)
    assert compared is not None
    assert all(0 <= float(difference) < 1e-5 for difference in compared.groups())


def test_onnx_is_the_same_each_time_and_names_no_path(
    tmp_path: Path, with_onnx: Path, trained_run: "TrainedRun"
) -> None:
    export(trained_run.folder, tmp_path, onnx=True)
    content = (tmp_path / "model.onnx").read_bytes()
    assert content == (with_onnx / "model.onnx").read_bytes()
    assert b".py" not in content


def test_an_onnx_file_that_disagrees_is_not_written(
    tmp_path: Path, with_onnx: Path, trained_run: "TrainedRun", monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if the exporter had lost the normalisation."""
    from pipeline.export import onnx_file

    original = onnx_file._OnPixels.__init__

    def broken(self: onnx_file._OnPixels, classifier: object) -> None:
        original(self, classifier)  # type: ignore[arg-type]
        self.mean.zero_()

    monkeypatch.setattr(onnx_file._OnPixels, "__init__", broken)
    with pytest.raises(
        PipelineError, match=r"model\.onnx: its probabilities differ from the model's by up to"
    ):
        export(trained_run.folder, tmp_path / "out", onnx=True)
    assert not list((tmp_path / "out").iterdir())


def test_the_command_lists_what_it_wrote(tmp_path: Path, trained_run: "TrainedRun") -> None:
    call = [sys.executable, "-m", "pipeline.export", str(trained_run.folder), str(tmp_path / "out")]
    done = subprocess.run(call, capture_output=True, text=True)
    assert done.returncode == 0
    assert done.stdout.splitlines() == [
        str(tmp_path / "out" / name) for name in ("model.safetensors", "README.md")
    ]
