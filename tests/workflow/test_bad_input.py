"""Bad input and bad luck, through the real commands and the real workflow: the message, and what stays.

Cases at the level of one reader or one setting are in tests/unit (datasets, images, fetch, config,
units, selection); here is what only shows in a whole run.
"""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as compute
import pyarrow.parquet as parquet
import pytest

ROOT = Path(__file__).parents[2]
FOLDER = "My results, naïve 図"
CONFIG = """
datasets:
  source: {{format: parquet, path: "{data}/source é.parquet", classes: 4}}
  target: {{format: parquet, path: "{data}/target é.parquet"}}
backbones:
  small:
    origin: pretraining
    dataset: source
    architecture: {{name: small_resnet, widths: [4, 8]}}
    preprocessing: {{resize: 14, crop: 14}}
    method: {{name: supervised, budget: {{epochs: 1}}, batch_size: 16}}
selections:
  uot: {{method: uot, count: {count}}}
recipes:
  reuse: {{budget: {{epochs: 1}}, batch_size: 8, reuse: {{name: labelled}}}}
experiments:
  - {{name: one, backbones: [small], targets: [target], selections: [uot], recipes: [reuse]}}
"""


class Project:
    """A copy of the workflow in a folder whose name has spaces and letters beyond ASCII."""

    def __init__(self, root: Path):
        self.root = root
        for part in ("Snakefile", "workflow", "src", "envs"):
            source = ROOT / part
            (shutil.copytree if source.is_dir() else shutil.copy)(source, root / part)
        (root / "my data").mkdir()
        whole = parquet.read_table(ROOT / "data" / "quickdraw.parquet")
        for part, classes, name in (("source", 4, "source é"), ("target", 3, "target é")):
            self.write(f"my data/{name}.parquet", few_rows(whole, part, classes))
        self.configure()

    def configure(self, count: int = 2, data: str = "my data") -> None:
        """Write config.yaml."""
        (self.root / "config.yaml").write_text(CONFIG.format(count=count, data=data), encoding="utf-8")

    def write(self, path: str, table: pa.Table) -> None:
        """Write a Parquet file of the project."""
        parquet.write_table(table, self.root / path)

    def snakemake(self, *arguments: str, background: bool = False):
        """Run snakemake here; finished, with its output, or in the background."""
        command = [sys.executable, "-m", "snakemake", "--cores", "2", "--show-failed-logs", *arguments]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        environment = os.environ | {"SLURM_CONF": os.devnull}
        if background:
            return subprocess.Popen(command, cwd=self.root, env=environment, **pipes)
        return subprocess.run(command, cwd=self.root, env=environment, check=False, **pipes)


def few_rows(whole: pa.Table, part: str, classes: int) -> pa.Table:
    """Six images of each split of the first classes of one part."""
    rows = whole.filter(compute.equal(whole["part"].cast(pa.string()), part))
    rows = rows.filter(compute.less(rows["label"], classes)).to_pylist()
    kept, seen = [], {}
    for row in rows:
        key = (row["label"], row["split"])
        seen[key] = seen.get(key, 0) + 1
        if seen[key] <= 6:
            kept.append(row)
    return pa.Table.from_pylist(kept)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project that was run once, from a folder with an awkward name."""
    root = tmp_path_factory.mktemp("bad") / FOLDER
    root.mkdir()
    project = Project(root)
    done = project.snakemake()
    assert done.returncode == 0, done.stdout[-4000:]
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


def test_a_folder_with_spaces_and_other_letters_works(project: Project) -> None:
    text = (project.root / "results" / "comparison.txt").read_text()
    assert "reuse" in text
    assert "uot" in text


def test_a_missing_dataset_is_named_before_any_job(project: Project) -> None:
    project.configure(data="no such folder")
    try:
        done = project.snakemake()
    finally:
        project.configure()
    assert done.returncode
    assert "no such folder/source é.parquet" in done.stdout
    assert "Finished jobid" not in done.stdout


def test_top_k_above_the_classes_is_refused_before_any_job(project: Project) -> None:
    project.configure(count=5)
    try:
        done = project.snakemake()
    finally:
        project.configure()
    assert done.returncode
    assert "selection 'uot' wants 5 units, and source 'source' has 4 classes" in done.stdout
    assert "Finished jobid" not in done.stdout


def test_a_key_that_stands_twice_is_named_before_any_job(project: Project) -> None:
    config = project.root / "config.yaml"
    config.write_text(config.read_text(encoding="utf-8") + "tracking: {}\ntracking: {}\n", encoding="utf-8")
    try:
        done = project.snakemake("-n")
    finally:
        project.configure()
    assert done.returncode
    assert "key 'tracking' is in line" in done.stdout


def test_a_target_of_one_class_is_refused_and_nothing_else_is_lost(project: Project) -> None:
    path = project.root / "my data" / "target é.parquet"
    before = path.read_bytes()
    weights = project.root / "results/backbones/small/weights.safetensors"
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


def test_a_truncated_intermediate_is_named(project: Project, tmp_path: Path) -> None:
    source = project.root / "results/units/small/source/classes/units.parquet"
    broken = tmp_path / "units.parquet"
    broken.write_bytes(source.read_bytes()[:-40])
    done = select(project, broken, tmp_path / "selection.parquet")
    assert done.returncode == 1
    assert f"error: {broken}: " in done.stderr
    assert "Parquet" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "selection.parquet").exists()


def test_a_table_of_another_kind_is_named(project: Project, tmp_path: Path) -> None:
    wrong = project.root / "results/comparison.parquet"
    done = select(project, wrong, tmp_path / "selection.parquet")
    assert done.returncode == 1
    assert "not a units table: column 'unit_id' is missing" in done.stderr


def test_settings_that_are_no_json_object_are_refused(project: Project, tmp_path: Path) -> None:
    source = project.root / "results/units/small/source/classes/units.parquet"
    for text, message in (("{", "--settings is not JSON"), ("[1]", "must be a JSON object")):
        done = select(project, source, tmp_path / "selection.parquet", text)
        assert done.returncode == 1
        assert message in done.stderr


def test_settings_above_the_limit_are_refused(project: Project, tmp_path: Path) -> None:
    source = project.root / "results/units/small/source/classes/units.parquet"
    done = select(project, source, tmp_path / "selection.parquet", '{"x":"' + "a" * 100_001 + '"}')
    assert done.returncode == 1
    assert "at most 100,000 fit" in done.stderr


def test_a_full_disk_is_said_and_leaves_no_half_table(project: Project, tmp_path: Path) -> None:
    source = project.root / "results/units/small/source/classes/units.parquet"
    folder = tmp_path / "full"
    with mounted(folder, "size=8k"):
        (folder / "filler").write_bytes(b"x" * 8192)
        done = select(project, source, folder / "selection.parquet")
        left = {path.name for path in folder.iterdir()}
    assert done.returncode == 1
    assert "No space left on device" in done.stderr
    assert "Nothing already computed is lost" in done.stderr
    assert left == {"filler"}


def test_a_read_only_results_folder_is_said(project: Project, tmp_path: Path) -> None:
    source = project.root / "results/units/small/source/classes/units.parquet"
    folder = tmp_path / "sealed"
    with mounted(folder, "ro"):
        done = select(project, source, folder / "selection.parquet")
    assert done.returncode == 1
    assert "Read-only file system" in done.stderr
    assert "Traceback" not in done.stderr


def test_two_snakemakes_at_once_do_not_mix(project: Project) -> None:
    first = project.snakemake("--forceall", background=True)
    locks = project.root / ".snakemake" / "locks"
    deadline = time.monotonic() + 60
    while not any(locks.glob("*")):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    second = project.snakemake()
    output, _ = first.communicate(timeout=300)
    assert first.returncode == 0, output[-2000:]
    assert second.returncode
    assert "LockException" in second.stdout


def select(project: Project, source: Path, output: Path, settings: str | None = None):
    """The selection command on `source` as its units."""
    target = project.root / "results/units/small/target/classes/units.parquet"
    plain = '{"method":"random","count":2,"seed":0}' if settings is None else settings
    command = [sys.executable, "-m", "pipeline.selection", str(source), str(target), str(output)]
    return subprocess.run(
        [*command, "--settings", plain], cwd=project.root, capture_output=True, text=True, check=False
    )
