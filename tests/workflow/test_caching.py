"""What runs again after a change: exactly what depends on it.

A small project is run once. Each test then changes one thing, asks Snakemake which jobs it wants, and
puts everything back.
"""

import ast
import csv
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as parquet
import pytest
import yaml

from .project import NO_SLURM, Hold, copy_workflow, doodles, small_config

CONFIG = """
datasets:
  source: {format: parquet, path: data/source.parquet, classes: 4}
  target: {format: csv, path: data/target.csv, classes: 3}
floors: {}
selections:
  random: {method: random, count: 2}
  clusters: {method: uot, units: {by: cluster, clusters: 4}, count: 2}
recipes:
  coin: {budget: {epochs: 2}, batch_size: 8, initialise: {name: coin, share: 0.5}}
  reuse: {budget: {epochs: 1}, batch_size: 8, reuse: {name: labelled}}
  plain: {budget: {epochs: 1}, batch_size: 8}
experiments:
  - name: both
    backbones: [small]
    targets: [target]
    selections: [random, clusters]
    recipes: [coin, reuse]
  - {name: another seed, backbones: [small], targets: [target], recipes: [coin], seeds: [1]}
  - {name: baseline, backbones: [small], targets: [target], recipes: [plain]}
"""
# Every job of that config, and the jobs that it reads from.
NEEDS: dict[str, list[str]] = {
    "dataset source": [],
    "dataset target": [],
    "images source/images_14": ["dataset source"],
    "images target/images_14": ["dataset target"],
    "pretrain small": ["dataset source", "images source/images_14"],
    "extract_features small/source/shards/0of1": [
        "dataset source",
        "images source/images_14",
        "pretrain small",
    ],
    "extract_features small/target/shards/0of1": [
        "dataset target",
        "images target/images_14",
        "pretrain small",
    ],
    "gather_features small/source": ["extract_features small/source/shards/0of1"],
    "gather_features small/target": ["extract_features small/target/shards/0of1"],
    "units small/source/classes": ["dataset source", "gather_features small/source"],
    "units small/source/clusters4": ["dataset source", "gather_features small/source"],
    "units small/target/classes": ["dataset target", "gather_features small/target"],
    "hash_images source/shards/0of1": ["dataset source"],
    "hash_images target/shards/0of1": ["dataset target"],
    "gather_hashes source": ["hash_images source/shards/0of1"],
    "gather_hashes target": ["hash_images target/shards/0of1"],
    "leaks small/source/target": [
        "gather_hashes source",
        "gather_hashes target",
        "gather_features small/source",
        "gather_features small/target",
    ],
    "select small/source/target/random": ["units small/source/classes", "units small/target/classes"],
    "select small/source/target/clusters": ["units small/source/clusters4", "units small/target/classes"],
    "explain small/source/target/random": [
        "select small/source/target/random",
        "gather_features small/target",
    ],
    "explain small/source/target/clusters": [
        "select small/source/target/clusters",
        "gather_features small/target",
    ],
    "initialise small/target/coin/seed0": [
        "dataset target",
        "images target/images_14",
        "pretrain small",
    ],
    "initialise small/target/coin/seed1": [
        "dataset target",
        "images target/images_14",
        "pretrain small",
    ],
    "finetune small/target/none/coin/seed0": ["initialise small/target/coin/seed0"],
    "finetune small/target/none/coin/seed1": ["initialise small/target/coin/seed1"],
    "finetune small/target/random/reuse/seed0": [
        "images source/images_14",
        "images target/images_14",
        "leaks small/source/target",
        "select small/source/target/random",
    ],
    "finetune small/target/clusters/reuse/seed0": [
        "images source/images_14",
        "images target/images_14",
        "leaks small/source/target",
        "select small/source/target/clusters",
    ],
    "finetune small/target/none/plain/seed0": ["dataset target", "images target/images_14", "pretrain small"],
    "evaluate small/target/none/plain/seed0": ["finetune small/target/none/plain/seed0"],
    "evaluate small/target/none/coin/seed0": ["finetune small/target/none/coin/seed0"],
    "evaluate small/target/none/coin/seed1": ["finetune small/target/none/coin/seed1"],
    "evaluate small/target/random/reuse/seed0": ["finetune small/target/random/reuse/seed0"],
    "evaluate small/target/clusters/reuse/seed0": ["finetune small/target/clusters/reuse/seed0"],
    "nearest_neighbours small/target/neighbours/seed0": ["gather_features small/target"],
    "linear_probe small/target/linear_probe/seed0": ["gather_features small/target"],
    "interpolate small/target/interpolation-plain/seed0": [
        "linear_probe small/target/linear_probe/seed0",
        "finetune small/target/none/plain/seed0",
    ],
    "evaluate_floor small/target/neighbours/seed0": ["nearest_neighbours small/target/neighbours/seed0"],
    "evaluate_floor small/target/linear_probe/seed0": ["linear_probe small/target/linear_probe/seed0"],
    "evaluate_floor small/target/interpolation-plain/seed0": [
        "interpolate small/target/interpolation-plain/seed0"
    ],
    "compare": [
        "evaluate small/target/none/plain/seed0",
        "evaluate_floor small/target/neighbours/seed0",
        "evaluate_floor small/target/linear_probe/seed0",
        "evaluate_floor small/target/interpolation-plain/seed0",
        "evaluate small/target/none/coin/seed0",
        "evaluate small/target/none/coin/seed1",
        "evaluate small/target/random/reuse/seed0",
        "evaluate small/target/clusters/reuse/seed0",
    ],
    "report": [
        "compare",
        "leaks small/source/target",
        "explain small/source/target/random",
        "explain small/source/target/clusters",
    ],
}
# Reads one call of snakemake a line, with a file for its output, and runs it in a fork, so that imports
# are paid once. Garbage collection would touch all that a fork shares: half the time of a dry run.
FORKING = """
import gc, json, os, sys
from snakemake.cli import main
import pydantic, smart_open, yaml
try:
    main(["--version"])
except SystemExit:
    pass
assert "pipeline" not in sys.modules
gc.freeze()
gc.disable()
for line in sys.stdin:
    arguments, output = json.loads(line)
    child = os.fork()
    if not child:
        file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, 1)
        os.dup2(file, 2)
        main(arguments)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


def jobs(*starts: str) -> set[str]:
    """All jobs whose names start so."""
    found = {job for job in NEEDS if job.startswith(starts)}
    assert found
    return found


def descendants(*starts: str) -> set[str]:
    """Those jobs, and all that read from them, directly or not."""
    reached = jobs(*starts)
    while more := {job for job, needed in NEEDS.items() if reached & set(needed)} - reached:
        reached |= more
    return reached


@dataclass(frozen=True)
class Project:
    """A copy of the project that has run, and a process that runs Snakemake in it."""

    root: Path
    environment: dict[str, str]
    forks: subprocess.Popen[str]
    hold: Hold

    def wanted(self) -> set[str]:
        """The jobs that Snakemake would run."""
        return {name_of(row) for row in self.outputs() if row["plan"] == "update pending"}

    def outputs(self, table: str = "--summary") -> list[dict[str, str]]:
        """Snakemake's table of all outputs."""
        status, answer = self.snakemake(table)
        assert status == 0, answer
        header, *lines = answer[answer.index("output_file\t") :].splitlines()
        names = header.split("\t")
        return [dict(zip(names, line.split("\t"), strict=True)) for line in lines]

    def snakemake(self, *arguments: str) -> tuple[int, str]:
        """Exit status and output of a call of Snakemake."""
        self.start(*arguments)
        return self.finish()

    def start(self, *arguments: str) -> None:
        """Begin a call of Snakemake."""
        assert self.forks.stdin
        self.forks.stdin.write(json.dumps([arguments, str(self.root / "answer.txt")]) + "\n")
        self.forks.stdin.flush()

    def finish(self) -> tuple[int, str]:
        """Wait for the call that was begun."""
        assert self.forks.stdout
        status = int(self.forks.stdout.readline())
        return status, (self.root / "answer.txt").read_text()


def name_of(row: dict[str, str]) -> str:
    """A job's name: its rule and what tells it from others of the rule."""
    path = Path(re.sub("-[0-9a-f]{8}(?=/)", "", row["output_file"])).relative_to("results")
    alone = row["rule"] in ("images", "extract_features", "hash_images", "leaks", "select")
    instance = path.with_suffix("") if alone else path.parent
    return f"{row['rule']} {Path(*instance.parts[1:])}".removesuffix(" .")


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    root = tmp_path_factory.mktemp("caching")
    make_project(root)
    hold = Hold(root / "hold")
    path = os.pathsep.join([str(root / "src"), str(hold.path)])
    environment = os.environ | NO_SLURM | {"PYTHONPATH": path}
    with subprocess.Popen(
        [sys.executable, "-c", FORKING],
        cwd=root,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as forks:
        assert forks.stdout
        forks.stdout.readline()
        made = Project(root, environment, forks, hold)
        status, answer = made.snakemake("--cores", "2", "--show-failed-logs")
        assert status == 0, answer
        yield made


def make_project(root: Path) -> None:
    """Copy what the workflow consists of, with a small config and little data."""
    copy_workflow(root)
    (root / "config.yaml").write_text(yaml.safe_dump(small_config(CONFIG), sort_keys=False))
    (root / "data").mkdir()
    parquet.write_table(doodles("source", 4, 5), root / "data" / "source.parquet")
    with (root / "data" / "target.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["path", "label", "split"])
        for number, row in enumerate(doodles("target", 3, 4).to_pylist()):
            (root / "data" / f"{number}.png").write_bytes(row["image"]["bytes"])
            table.writerow([f"{number}.png", row["class_name"], row["split"]])


@pytest.fixture
def changed(project: Project) -> Iterator[Path]:
    """The project's folder, put back after the test with all times."""
    kept = {file: (file.read_bytes(), file.stat()) for file in inputs(project.root)}
    yield project.root
    for file in inputs(project.root) - set(kept):
        file.unlink()
    for file, (content, status) in kept.items():
        if not file.exists() or file.read_bytes() != content:
            file.write_bytes(content)
        os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))


def inputs(root: Path) -> set[Path]:
    """Every file of the project that a person may edit."""
    folders = [root / name for name in ("src", "workflow", "envs", "data")]
    files = {file for folder in folders for file in folder.rglob("*") if file.is_file()}
    return {file for file in files if "__pycache__" not in file.parts} | {
        root / "Snakefile",
        root / "config.yaml",
    }


Change = Callable[[Path], None]


def setting(path: str, value: Any) -> Change:
    """Put a value at a dotted key path of the config."""

    def change(root: Path) -> None:
        file = root / "config.yaml"
        config = yaml.safe_load(file.read_text())
        *parents, last = [int(part) if part.isdigit() else part for part in path.split(".")]
        place = config
        for part in parents:
            place = place.setdefault(part, {}) if isinstance(place, dict) else place[part]
        place[last] = value
        file.write_text(yaml.safe_dump(config, sort_keys=False))

    return change


def together(*changes: Change) -> Change:
    """Make several changes."""

    def change(root: Path) -> None:
        for one in changes:
            one(root)

    return change


def function(module: str) -> Change:
    """Add a statement to the first function of a module of the package."""

    def change(root: Path) -> None:
        file = root.joinpath("src", "pipeline", *module.split(".")).with_suffix(".py")
        lines = file.read_text().splitlines()
        nodes = ast.walk(ast.parse(file.read_text()))
        last = next(node for node in nodes if isinstance(node, ast.FunctionDef)).body[-1]
        lines.insert(last.lineno - 1, f"{' ' * last.col_offset}assert True")
        file.write_text("\n".join(lines) + "\n")

    return change


def texts(edit: Callable[[str], str], *patterns: str) -> Change:
    """Edit all files of some patterns."""

    def change(root: Path) -> None:
        files = {file for pattern in patterns for file in root.glob(pattern) if file.stat().st_size}
        assert files
        for file in files:
            before = file.read_text()
            file.write_text(edit(before))
            assert file.read_text() != before

    return change


def touched(root: Path) -> None:
    """Give every file the time of now, as a fresh checkout does."""
    for file in inputs(root):
        file.touch()


def reordered(root: Path) -> None:
    """Turn the order of all keys of the config."""

    def turned(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: turned(inner) for key, inner in reversed(value.items())}
        return [turned(inner) for inner in value] if isinstance(value, list) else value

    file = root / "config.yaml"
    file.write_text(yaml.safe_dump(turned(yaml.safe_load(file.read_text())), sort_keys=False))


def image_in_parquet(root: Path) -> None:
    """Put the second image of the source in place of the first."""
    file = root / "data" / "source.parquet"
    table = parquet.read_table(file)
    images = table["image"].take([1, *range(1, len(table))])
    parquet.write_table(table.set_column(table.column_names.index("image"), "image", images), file)


def image_file(root: Path) -> None:
    """Put the second image of the target in place of the first."""
    shutil.copy(root / "data" / "1.png", root / "data" / "0.png")


def label_in_csv(root: Path) -> None:
    """Give the first image of the target the label of the last."""
    file = root / "data" / "target.csv"
    header, first, *rest = file.read_text().splitlines()
    path, label, split = first.split(",")
    other = rest[-1].split(",")[1]
    assert label != other
    file.write_text("\n".join([header, f"{path},{other},{split}", *rest, ""]))


NOTHING: set[str] = set()
CASES: dict[str, tuple[Change, set[str]]] = {
    # Settings, section by section
    "dataset: few shots": (
        setting("datasets.target.subset", {"by": "number", "per_class": 2}),
        descendants("dataset target"),
    ),
    # Floors choose by it.
    "dataset: metric": (
        setting("datasets.target.metric", "mean_per_class"),
        descendants("nearest_neighbours", "linear_probe"),
    ),
    "backbone: learning rate": (
        setting("backbones.small.method.optimiser", {"name": "sgd", "learning_rate": 0.02}),
        descendants("pretrain"),
    ),
    "backbone: feature layer": (
        setting("backbones.small.feature_layer", "stem"),
        descendants("extract_features") | {"floor_features small/target"},
    ),
    "features: batch size": (setting("features.batch_size", 128), descendants("extract_features")),
    "selection: seed": (
        setting("selections.random.seed", 1),
        descendants("select small/source/target/random"),
    ),
    "selection: cost": (
        setting("selections.clusters.tau1", 2.0),
        descendants("select small/source/target/clusters"),
    ),
    "selection: units": (
        setting("selections.clusters.units.iterations", 49),
        descendants("units small/source/clusters4"),
    ),
    "explanation: draws": (setting("explanation", {"draws": 3}), descendants("explain")),
    "recipe: stage before": (setting("recipes.coin.initialise.temperature", 0.5), descendants("initialise")),
    "recipe: objective": (
        setting("recipes.coin.objective", {"name": "cross_entropy", "label_smoothing": 0.1}),
        descendants("finetune small/target/none/coin"),
    ),
    "recipe: reuse": (
        setting("recipes.reuse.reuse.weight", 0.5),
        descendants("finetune small/target/random/reuse", "finetune small/target/clusters/reuse"),
    ),
    "recipe: leaks kept": (
        setting("recipes.reuse.reuse.leaks", "keep"),
        descendants("finetune small/target/random/reuse", "finetune small/target/clusters/reuse"),
    ),
    "floors: k": (setting("floors.neighbours", [2]), descendants("nearest_neighbours")),
    "floors: C": (setting("floors.regularisation", [2.0]), descendants("linear_probe")),
    "floors: alpha": (setting("floors.interpolation", [0.4]), descendants("interpolate")),
    "floors: none": (setting("floors.enabled", False), descendants("compare")),
    "leakage: threshold": (setting("leakage.hamming", 6), descendants("leaks")),
    "recipe: how often it is evaluated": (
        setting("recipes.coin.evaluate_every", 5),
        descendants("initialise"),
    ),
    "experiment: fewer runs": (setting("experiments.0.selections", ["random"]), descendants("compare")),
    "experiment: another seed": (
        setting("experiments.1.seeds", [1, 2]),
        {
            "initialise small/target/coin/seed2",
            "finetune small/target/none/coin/seed2",
            "evaluate small/target/none/coin/seed2",
            "compare",
            "report",
        },
    ),
    "experiment: name": (setting("experiments.0.name", "all of them"), {"report"}),
    # Data
    "an image in a table": (image_in_parquet, descendants("dataset source")),
    "an image file": (image_file, descendants("dataset target")),
    "a label": (label_in_csv, descendants("dataset target")),
    # Code, package by package
    "code: datasets": (function("datasets.manifest"), descendants("dataset")),
    "code: a reader": (function("datasets.csv"), descendants("dataset target")),
    "code: images": (function("images.decode"), jobs("")),
    "code: tables": (function("tables.io"), jobs("")),
    "code: provenance": (function("provenance.record"), jobs("")),
    "code: engine": (function("engine.train"), descendants("pretrain")),
    "code: backbones": (function("backbones.backbone"), descendants("pretrain")),
    "code: an architecture": (
        function("backbones.architectures.small_resnet"),
        descendants("pretrain"),
    ),
    "code: pre-training": (function("pretraining.supervised"), descendants("pretrain")),
    "code: features": (function("features.extract"), descendants("extract_features")),
    # Shards go once they are gathered, so that they are made again to be gathered again.
    "code: gathering": (function("gathering.gather"), descendants("extract_features", "hash_images")),
    "code: hashes": (function("leakage.hashes.hashing"), descendants("hash_images")),
    "code: leakage": (function("leakage.audit"), descendants("leaks")),
    "code: units": (function("units.summarise"), descendants("units")),
    "code: selection": (function("selection.select"), descendants("select")),
    "code: a method of selection": (
        function("selection.uot"),
        descendants("select small/source/target/clusters"),
    ),
    "code: explanation": (function("explanation.explain"), descendants("explain")),
    "code: the stage before": (function("initialisation.coin"), descendants("initialise")),
    "code: an objective": (function("objectives.cross_entropy"), descendants("finetune")),
    "code: an objective of the stage before": (
        function("objectives.contrastive"),
        descendants("initialise"),
    ),
    "code: fine-tuning": (function("finetuning.finetune"), descendants("finetune")),
    "code: reuse": (
        function("reuse.labelled"),
        descendants("finetune small/target/random/reuse", "finetune small/target/clusters/reuse"),
    ),
    "code: evaluation": (function("evaluation.metrics"), descendants("evaluate")),
    "code: nearest neighbours": (
        function("floors.neighbours.classify"),
        descendants("nearest_neighbours"),
    ),
    "code: linear probe": (function("floors.linear_probe.fit"), descendants("linear_probe")),
    "code: interpolation": (function("floors.interpolation.interpolate"), descendants("interpolate")),
    "code: comparison": (function("comparison.compare"), descendants("compare")),
    "code: report": (function("report.page"), {"report"}),
    "the report's template": (texts(lambda text: f"{text}\n<hr>", "src/pipeline/report/*.j2"), {"report"}),
    "the report's style": (texts(lambda text: f"{text}\n", "src/pipeline/report/*.css"), {"report"}),
    # What changes no result; several at once, since all must want nothing
    "settings that no job reads": (
        together(
            setting("datasets.more", {"format": "csv", "path": "more.csv"}),
            setting("recipes.more", {"budget": {"epochs": 1}}),
            setting("tracking", {"uri": "sqlite:///elsewhere.db", "experiment": "other"}),
        ),
        NOTHING,
    ),
    "code: beside the steps": (
        together(*map(function, ("command", "progress", "errors", "config.resolve", "tracking.sync"))),
        NOTHING,
    ),
    "code: components that no entry names": (
        together(
            *map(function, ("datasets.image_folder", "pretraining.moco_v2", "backbones.fetch")),
            function("backbones.architectures.torchvision"),
        ),
        NOTHING,
    ),
    "comments": (
        together(
            texts(lambda text: f"# A comment.\n{text}", "src/**/*.py", "workflow/**/*.smk", "Snakefile"),
            texts(lambda text: f"# A comment.\n{text}", "envs/*.yaml", "config.yaml"),
        ),
        NOTHING,
    ),
    "docstrings": (texts(lambda text: text.replace('"""', '"""Edited. ', 1), "src/**/*.py"), NOTHING),
    "descriptions of settings": (
        texts(lambda text: text.replace('description="', 'description="Edited. '), "src/**/selections.py"),
        NOTHING,
    ),
    "formatting": (texts(lambda text: ast.unparse(ast.parse(text)), "src/**/*.py"), NOTHING),
    "times of all files": (touched, NOTHING),
    "order of keys": (reordered, NOTHING),
    # It changes no table, but Snakemake sees other inputs of the job that gathers.
    "number of shards": (
        setting("datasets.source.shards", 2),
        {f"extract_features small/source/shards/{shard}of2" for shard in range(2)}
        | {f"hash_images source/shards/{shard}of2" for shard in range(2)}
        | descendants("gather_features small/source", "gather_hashes source"),
    ),
}


def test_the_jobs_are_those_listed_and_all_are_done(project: Project) -> None:
    assert {name_of(row) for row in project.outputs()} == set(NEEDS)
    assert project.wanted() == NOTHING
    assert "Nothing to be done" in project.snakemake("--dry-run")[1]


@pytest.mark.parametrize(("change", "expected"), CASES.values(), ids=CASES)
def test_a_change_runs_exactly_its_descendants(
    change: Change, expected: set[str], project: Project, changed: Path
) -> None:
    change(changed)
    wanted = project.wanted()
    assert (sorted(wanted - expected), sorted(expected - wanted)) == ([], []), "(not to run, left out)"


STALE = "pipeline.selection: its code has changed since this job was made"
SELECTION = Path("results/selections/small/source/target/random.parquet")


def test_a_job_made_before_an_edit_does_not_start(project: Project, changed: Path) -> None:
    """The command of a queued job, with the digest that it was queued with."""
    outputs = project.outputs("--detailed-summary")
    row = next(row for row in outputs if row["output_file"] == str(SELECTION))
    made = (changed / SELECTION).read_bytes()

    def run() -> int:
        (changed / SELECTION).unlink(missing_ok=True)
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        environment = project.environment | {"PATH": path}
        return subprocess.run(["bash", "-c", row["shellcmd"]], cwd=changed, env=environment).returncode

    code = changed / "src" / "pipeline" / "selection" / "random.py"
    before = code.read_text()
    function("selection.random")(changed)
    assert run() == 1
    assert STALE in (changed / row["log-file(s)"]).read_text()
    assert not (changed / SELECTION).exists()
    code.write_text(before)
    assert run() == 0
    assert (changed / SELECTION).read_bytes() == made


def test_an_edit_while_a_job_waits_stops_it_and_a_revert_lets_it_run(project: Project, changed: Path) -> None:
    code = changed / "src" / "pipeline" / "selection" / "random.py"
    before = code.read_text()
    with project.hold("pipeline.units") as wait:
        project.start("--cores", "2", "--forcerun", "units", "--", str(SELECTION))
        wait()
        function("selection.random")(changed)
    status, answer = project.finish()
    assert status == 1
    assert "2 of 3 steps (67%) done" in answer
    assert STALE in (changed / "results/logs/selections/small/source/target/random.log").read_text()
    code.write_text(before)
    status, answer = project.snakemake("--cores", "2", "--", str(SELECTION))
    assert (status, "1 of 1 steps (100%) done" in answer) == (0, True), answer
    assert project.wanted() == NOTHING
