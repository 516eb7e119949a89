"""From images as they come to a manifest, and to decoded images for training."""


def dataset_path(wildcards):
    """The dataset's files, where they are on this machine; their content is a parameter."""
    return local_file(settings.datasets[wildcards.dataset])


def dataset_settings(wildcards):
    """A dataset entry with the digest of its files, so that a touch changes nothing."""
    entry = settings.datasets[wildcards.dataset]
    plain = entry.model_dump(mode="json", exclude={"metric", "shards", "concepts"})
    index = Path("results/datasets") / wildcards.dataset / ".content.json"
    if Path(getattr(entry, "path", "")).exists():
        try:
            plain["content"] = dataset_digest(plain, index)
        except PipelineError as error:
            raise WorkflowError(str(error)) from None
    return to_json(plain)


def dataset_code(wildcards):
    """The digest of the step with the reader that the entry names, and with the entry of a published set."""
    entry = settings.datasets[wildcards.dataset]
    components = [f"pipeline.datasets.{entry.format}"]
    if entry.format == "published":
        components.append(f"pipeline.datasets.sets.{entry.name}")
    return code_of("pipeline.datasets", *components)


rule dataset:
    input:
        dataset_path,
    output:
        manifest="results/datasets/{dataset}/manifest.parquet",
    params:
        settings=dataset_settings,
        code=dataset_code,
    log:
        "results/logs/datasets/{dataset}/manifest.log",
    benchmark:
        "results/benchmarks/datasets/{dataset}/manifest.tsv"
    threads: 1
    resources:
        mem_mb=more_each_try(LIGHT_MEMORY),
        runtime=TRAINING_MINUTES,
    conda:
        ENVIRONMENT
    message:
        "Dataset {wildcards.dataset}: check every image, write the manifest"
    shell:
        "python -m pipeline.datasets {output.manifest} --threads {threads}"
        " --settings {params.settings:q} --code {params.code} > {log} 2>&1"


rule images:
    input:
        manifest="results/datasets/{dataset}/manifest.parquet",
    output:
        images="results/datasets/{dataset}/images_{size}.npy",
    params:
        settings=lambda w: to_json({"size": int(w.size)}),
        code=lambda w: code_of("pipeline.images"),
    log:
        "results/logs/datasets/{dataset}/images_{size}.log",
    benchmark:
        "results/benchmarks/datasets/{dataset}/images_{size}.tsv"
    threads: 1
    resources:
        mem_mb=more_each_try(LIGHT_MEMORY),
        runtime=TRAINING_MINUTES,
    conda:
        ENVIRONMENT
    message:
        "Dataset {wildcards.dataset}: decode images at {wildcards.size} pixels"
    shell:
        "python -m pipeline.images {input.manifest} {output.images} --threads {threads}"
        " --settings {params.settings:q} --code {params.code} > {log} 2>&1"


use rule images as originals with:
    output:
        images="results/datasets/{dataset}/originals.arrow",
    params:
        settings=to_json({"size": None}),
        code=lambda w: code_of("pipeline.images"),
    log:
        "results/logs/datasets/{dataset}/originals.log",
    benchmark:
        "results/benchmarks/datasets/{dataset}/originals.tsv"
    message:
        "Dataset {wildcards.dataset}: decode images at their own sizes"
