"""The checked config, and the lookups that rules share."""

import json
import os
import re
import sys
from functools import cache
from hashlib import sha256
from pathlib import Path

from snakemake.exceptions import WorkflowError

ROOT = Path(workflow.basedir)
os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT / "src"), os.environ.get("PYTHONPATH")]))
sys.path.insert(0, str(ROOT / "src"))

from pipeline.config.floor_runs import (
    PENULTIMATE,
    baselines,
    classifier_settings,
    floors,
    has_features,
    interpolated_run,
    interpolation_settings,
)
from pipeline.config.loading import load_config
from pipeline.config.reading import read_yaml
from pipeline.config.model import NO_SELECTION
from pipeline.config.pairing import claimed_tables, claims_settings
from pipeline.config.resolve import Resolver, to_json
from pipeline.datasets.content import dataset_digest
from pipeline.errors import PipelineError
from pipeline.provenance.code import Module, all_modules, code_digest
from pipeline.provenance.content import content_digest

# A job of a cluster reads this file again when it starts, perhaps hours later. It takes the config
# and the code's digests from when it was submitted: its step then refuses code that was edited.
SUBMITTED = "GRAFTUNE_SUBMITTED"
submitted = {}
if workflow.remote_exec and SUBMITTED in os.environ:
    submitted = json.loads(Path(os.environ[SUBMITTED]).read_text(encoding="utf-8"))
    submitted["modules"] = {name: Module(*module) for name, module in submitted["modules"].items()}
    config.clear()
    config.update(submitted["config"])

CODE_INDEX = Path(f".snakemake/graftune/code-{sys.implementation.cache_tag}.json")
try:
    # Snakemake has read these files already, and of a key that stands twice has taken the last.
    for file in [] if submitted else workflow.configfiles:
        read_yaml(Path(file))
    settings = load_config(config)
    modules = submitted.get("modules") or all_modules(CODE_INDEX)
except PipelineError as error:
    raise WorkflowError(str(error)) from None
resolve = Resolver(settings)

os.environ["GRAFTUNE_TRACKING_URI"] = settings.tracking.uri
os.environ["GRAFTUNE_TRACKING_EXPERIMENT"] = settings.tracking.experiment

ENVIRONMENT = str(ROOT / "envs" / "graftune.yaml")
RUN = "results/runs/{backbone}/{target}/{selection}/{recipe}/seed{seed}"
# What a job may have at its first try; a profile's retries ask for as much again each time.
LIGHT_MEMORY, TRAINING_MEMORY = 2_000, 8_000
LIGHT_MINUTES, TRAINING_MINUTES = 60, 24 * 60


wildcard_constraints:
    dataset=r"[\w.-]+",
    backbone=r"[\w.-]+",
    source=r"[\w.-]+",
    target=r"[\w.-]+",
    selection=r"[\w.-]+",
    recipe=r"[\w.-]+",
    units=r"[\w.-]+",
    initialisation=r"[\w.-]+",
    floor=r"[\w.-]+",
    trial=r"[0-9a-f]+",
    rung=r"\d+",
    seed=r"\d+",
    size=r"\d+",
    shard=r"\d+",


def more_each_try(amount):
    """A resource that grows with the attempt."""
    return lambda wildcards, attempt: amount * attempt


def launched(gpus):
    """How a command begins whose module several GPUs work on: a process for each of them."""
    joint = f"-m torch.distributed.run --standalone --nproc-per-node {gpus} "
    return f"python {joint if gpus > 1 else ''}-m"


def threads_of(training):
    """The threads of all its processes."""
    return training["threads"] * training["gpu"]


def local_file(entry):
    """The file or folder that an entry names, as an input whose time does not matter."""
    return existing(getattr(entry, "path", None))


def existing(path):
    """A file or folder as an input whose time does not matter; nothing where it is missing."""
    return ancient(path) if path and Path(path).exists() else []


def content_of(path):
    """The digest of a file, as a parameter; None where it is missing, so that a dry run goes on."""
    return content_digest(Path(path)) if path and Path(path).exists() else None


def refuse_missing_files():
    """Stop before any job where a file that the config names is missing; a dry run goes on without it."""
    for key, path in resolve.used_files():
        if not Path(path).exists():
            raise WorkflowError(f"{key}: no such file or folder: {path}")
    for key, archive in resolve.used_archives():
        try:
            archive.require()
        except PipelineError as error:
            raise WorkflowError(f"{key}: {error}") from None


def remember_submission():
    """Keep config and code digests for the jobs of a cluster, under a name that is their content's."""
    text = json.dumps({"config": config, "modules": modules}, sort_keys=True)
    path = Path(".snakemake/graftune").absolute() / f"{sha256(text.encode()).hexdigest()[:16]}.json"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    os.environ[SUBMITTED] = str(path)


onstart:
    # Not earlier: while this file is read, Snakemake does not know yet whether and where jobs will run.
    refuse_missing_files()
    if not workflow.local_exec:
        remember_submission()


@cache
def code_of(step, *components):
    """The digest of a step's code, as its command checks it."""
    return str(code_digest(step, *components, modules=modules))


def run_of(wildcards):
    """The run that a job's wildcards name; of a trial, which names no seed, that of its search."""
    keys = (wildcards.backbone, wildcards.target, wildcards.selection, wildcards.recipe)
    return resolve.run(*keys, wildcards.seed) if "seed" in wildcards.keys() else resolve.trial_run(*keys)


def run_folders():
    """The output folder of every run, in the order of the config."""
    return [RUN.format(**run.keys()) for run in settings.runs()]


def main_metrics():
    """The metric to report of each target."""
    return {run.target: settings.datasets[run.target].metric for run in settings.runs()}


def selection_of(run):
    """The selection table of a ranking, or of a run that reuses source data."""
    return f"results/selections/{run.backbone}/{run.source}/{run.target}/{run.selection}.parquet"


def selections_of_all_runs(wildcards):
    """Every selection that a run reads, once."""
    return list(dict.fromkeys(selection_of(run) for run in settings.runs() if run.source))


def leaks_of(run):
    """The leaks table of a run that reuses source data."""
    return f"results/leaks/{run.backbone}/{run.source}/{run.target}.parquet"


def all_selections(wildcards):
    """Every selection, once, also those that no run reads."""
    return [selection_of(ranking) for ranking in settings.rankings()]


def asked_for(wildcards):
    """All that the config asks for: a comparison of its runs, recall, domain gaps, feature maps, claims, selections."""
    results = []
    if settings.runs():
        results += ["results/comparison.parquet", "results/comparison.txt", "results/report.html"]
    if resolve.recalled():
        results += ["results/recall.parquet", "results/recall.txt"]
    if settings.claims.questions:
        results += ["results/claims.parquet", "results/claims.txt"]
    if resolve.gaps():
        results.append("results/analysis/domain_gap/gap_and_accuracy.parquet")
    if settings.mapped():
        results.append("results/analysis/feature_map/feature_maps.parquet")
    return results + all_selections(wildcards)


def images_of(dataset, backbone):
    """Decoded images of a dataset at the size a backbone wants."""
    return f"results/datasets/{dataset}/images_{resolve.resize(backbone)}.npy"


def originals_of(dataset, backbone):
    """The same at their own sizes, where the backbone's training cuts its crops from them."""
    return [f"results/datasets/{dataset}/originals.arrow"] if resolve.crops_originals(backbone) else []


def originals_options(wildcards, input):
    """The option of the command that names them."""
    return [part for path in input.originals for part in ("--originals", path)]


def names(section, *classes):
    """A wildcard pattern for the entries of a section whose origin or format is one of `classes`."""
    kinds = {
        name: getattr(entry, "origin", getattr(entry, "format", None)) for name, entry in section.items()
    }
    fitting = [name for name, kind in kinds.items() if kind in classes]
    return "|".join(re.escape(name) for name in fitting) or "(?!)"
