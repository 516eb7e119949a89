"""Bad input and bad luck, through the real commands and the real workflow: the message, and what stays.

Cases at the level of one reader or one setting are in tests/unit (datasets, images, fetch, config,
units, selection); here is what only shows in a whole run.
"""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow.compute as compute
import pyarrow.parquet as parquet
import pytest

from .project import Hold, Project, copy_workflow, doodles, small_config

FOLDER = "My results, naïve 図"
CONFIG = """
datasets:
  source: {{format: parquet, path: "{data}/source é.parquet", classes: 4}}
  target: {{format: parquet, path: "{data}/target é.parquet"}}
selections:
  uot: {{method: uot, count: {count}}}
recipes:
  reuse: {{budget: {{epochs: 1}}, batch_size: 8, reuse: {{name: labelled, leaks: keep}}}}
experiments:
  - {{name: one, backbones: [small], targets: [target], selections: [uot], recipes: [reuse]}}
"""


class Copied(Project):
    """A copy of the workflow in a folder whose name has spaces and letters beyond ASCII."""

    WORKFLOW = ()

    def __init__(self, folder: Path):
        super().__init__(folder, configured())
        self.hold = Hold(folder / "hold")
        self.environment |= {"PYTHONPATH": str(self.hold.path)}
        copy_workflow(folder)
        (folder / "my data").mkdir()
        self.write("my data/source é.parquet", doodles("source", 4, 6))
        self.write("my data/target é.parquet", doodles("target", 3, 6))

    def configure(self, count: int = 2, data: str = "my data") -> None:
        """Write config.yaml."""
        self.config = configured(count, data)
        self.write_config()


def configured(count: int = 2, data: str = "my data") -> dict[str, Any]:
    """The config."""
    return small_config(CONFIG.format(count=count, data=data))


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Copied:
    """A project that was run once, from a folder with an awkward name."""
    folder = tmp_path_factory.mktemp("bad") / FOLDER
    folder.mkdir()
    project = Copied(folder)
    project.run()
    return project


@contextmanager
def mounted(folder: Path, options: str) -> Iterator[None]:
    """A small file system of its own at `folder`; skips where mounting is not allowed."""
    folder.mkdir(parents=True, exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    done = subprocess.run(command, capture_output=True, check=False)
    if done.returncode:
        pytest.skip(f"cannot mount a file system here: {done.stderr.decode().strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_a_folder_with_spaces_and_other_letters_works(project: Copied) -> None:
    text = (project.folder / "results" / "comparison.txt").read_text()
    assert "reuse" in text
    assert "uot" in text


def test_a_missing_dataset_is_named_before_any_job(project: Copied) -> None:
    project.configure(data="no such folder")
    try:
        done = project.snakemake()
    finally:
        project.configure()
    assert done.returncode
    assert "no such folder/source é.parquet" in done.stdout
    assert "Finished jobid" not in done.stdout


def test_top_k_above_the_classes_is_refused_before_any_job(project: Copied) -> None:
    project.configure(count=5)
    try:
        done = project.snakemake()
    finally:
        project.configure()
    assert done.returncode
    assert "selection 'uot' wants 5 units, and source 'source' has 4 classes" in done.stdout
    assert "Finished jobid" not in done.stdout


def test_a_key_that_stands_twice_is_named_before_any_job(project: Copied) -> None:
    config = project.folder / "config.yaml"
    config.write_text(config.read_text(encoding="utf-8") + "tracking: {}\ntracking: {}\n", encoding="utf-8")
    try:
        done = project.snakemake("-n")
    finally:
        project.configure()
    assert done.returncode
    assert "key 'tracking' is in line" in done.stdout


def test_a_target_of_one_class_is_refused_and_nothing_else_is_lost(project: Copied) -> None:
    path = project.folder / "my data" / "target é.parquet"
    before = path.read_bytes()
    weights = project.folder / "results/backbones/small/weights.safetensors"
    made = weights.stat().st_mtime_ns
    whole = parquet.read_table(path)
    project.write("my data/target é.parquet", whole.filter(compute.equal(whole["label"], 0)))
    try:
        done = project.snakemake()
    finally:
        path.write_bytes(before)
    assert done.returncode
    assert "target é.parquet" in done.stdout
    assert "found one class only" in done.stdout
    assert weights.stat().st_mtime_ns == made
    assert project.snakemake().returncode == 0


def test_a_truncated_intermediate_is_named(project: Copied, tmp_path: Path) -> None:
    source = project.folder / "results/units/small/source/classes/units.parquet"
    broken = tmp_path / "units.parquet"
    broken.write_bytes(source.read_bytes()[:-40])
    done = select(project, broken, tmp_path / "selection.parquet")
    assert done.returncode == 1
    assert f"error: {broken}: " in done.stderr
    assert "Parquet" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "selection.parquet").exists()


def test_a_table_of_another_kind_is_named(project: Copied, tmp_path: Path) -> None:
    wrong = project.folder / "results/comparison.parquet"
    done = select(project, wrong, tmp_path / "selection.parquet")
    assert done.returncode == 1
    assert "not a units table: column 'unit_id' is missing" in done.stderr


def test_settings_that_are_no_json_object_are_refused(project: Copied, tmp_path: Path) -> None:
    source = project.folder / "results/units/small/source/classes/units.parquet"
    for text, message in (("{", "--settings is not JSON"), ("[1]", "must be a JSON object")):
        done = select(project, source, tmp_path / "selection.parquet", text)
        assert done.returncode == 1
        assert message in done.stderr


def test_settings_above_the_limit_are_refused(project: Copied, tmp_path: Path) -> None:
    source = project.folder / "results/units/small/source/classes/units.parquet"
    done = select(project, source, tmp_path / "selection.parquet", '{"x":"' + "a" * 100_001 + '"}')
    assert done.returncode == 1
    assert "at most 100,000 fit" in done.stderr


def test_a_full_disk_is_said_and_leaves_no_half_table(project: Copied, tmp_path: Path) -> None:
    source = project.folder / "results/units/small/source/classes/units.parquet"
    folder = tmp_path / "full"
    with mounted(folder, "size=8k"):
        (folder / "filler").write_bytes(b"x" * 8192)
        done = select(project, source, folder / "selection.parquet")
        left = {path.name for path in folder.iterdir()}
    assert done.returncode == 1
    assert "No space left on device" in done.stderr
    assert "Nothing already computed is lost" in done.stderr
    assert left == {"filler"}


def test_a_read_only_results_folder_is_said(project: Copied, tmp_path: Path) -> None:
    source = project.folder / "results/units/small/source/classes/units.parquet"
    folder = tmp_path / "sealed"
    with mounted(folder, "ro"):
        done = select(project, source, folder / "selection.parquet")
    assert done.returncode == 1
    assert "Read-only file system" in done.stderr
    assert "Traceback" not in done.stderr


def test_two_snakemakes_at_once_do_not_mix(project: Copied) -> None:
    with project.hold("pipeline.comparison") as wait:
        first = project.start("--forcerun", "compare")
        wait()
        second = project.snakemake()
    output, _ = first.communicate(timeout=300)
    assert first.returncode == 0, output[-2000:]
    assert second.returncode
    assert "LockException" in second.stdout


def select(project: Copied, source: Path, output: Path, settings: str | None = None):
    """The selection command on `source` as its units."""
    target = project.folder / "results/units/small/target/classes/units.parquet"
    plain = '{"method":"random","count":2,"seed":0}' if settings is None else settings
    command = [sys.executable, "-m", "pipeline.selection", str(source), str(target), str(output)]
    return subprocess.run(
        [*command, "--settings", plain], cwd=project.folder, capture_output=True, text=True, check=False
    )
