"""Units of a dataset: its classes, clusters of its features, or its images; or class means made elsewhere."""

WITH_IMAGES = {entry.format for entry in settings.datasets.values()} - {"class_means"}


def concepts_path(wildcards):
    """The file that says which concept each class belongs to; clusters have none."""
    return settings.datasets[wildcards.dataset].concepts if wildcards.units == "classes" else None


def concepts_options(wildcards):
    """The option of the command that names it."""
    path = concepts_path(wildcards)
    return ["--concepts", path] if path else []


rule units:
    input:
        lambda w: existing(concepts_path(w)),
        manifest="results/datasets/{dataset}/manifest.parquet",
        features="results/features/{backbone}/{dataset}/features.parquet",
    output:
        units="results/units/{backbone}/{dataset}/{units}/units.parquet",
        membership="results/units/{backbone}/{dataset}/{units}/membership.parquet",
    params:
        concepts=concepts_options,
        content=lambda w: content_of(concepts_path(w)),
        settings=lambda w: to_json(resolve.units_settings(w.units)),
        code=lambda w: code_of("pipeline.units"),
    log:
        "results/logs/units/{backbone}/{dataset}/{units}.log",
    benchmark:
        "results/benchmarks/units/{backbone}/{dataset}/{units}.tsv"
    threads: 1
    resources:
        mem_mb=more_each_try(TRAINING_MEMORY),
        runtime=LIGHT_MINUTES,
    wildcard_constraints:
        dataset=names(settings.datasets, *WITH_IMAGES),
    conda:
        ENVIRONMENT
    message:
        "Units of {wildcards.dataset} by {wildcards.backbone}: {wildcards.units}"
    shell:
        "python -m pipeline.units {input.manifest} {input.features} {output.units} {output.membership}"
        " {params.concepts:q} --settings {params.settings:q} --code {params.code} > {log} 2>&1"


def means_path(wildcards):
    """The file of class means that a backbone made elsewhere."""
    return settings.datasets[wildcards.dataset].file(wildcards.backbone)


rule class_means:
    input:
        lambda w: existing(means_path(w)),
    output:
        units="results/units/{backbone}/{dataset}/classes/units.parquet",
    params:
        means=means_path,
        content=lambda w: content_of(means_path(w)),
        settings=lambda w: to_json({"backbone": w.backbone, "classes": settings.datasets[w.dataset].classes}),
        code=lambda w: code_of("pipeline.class_means"),
    log:
        "results/logs/units/{backbone}/{dataset}/class_means.log",
    benchmark:
        "results/benchmarks/units/{backbone}/{dataset}/class_means.tsv"
    threads: 1
    resources:
        mem_mb=more_each_try(LIGHT_MEMORY),
        runtime=LIGHT_MINUTES,
    wildcard_constraints:
        dataset=names(settings.datasets, "class_means"),
    conda:
        ENVIRONMENT
    message:
        "Units of {wildcards.dataset} by {wildcards.backbone}: check class means made elsewhere"
    shell:
        "python -m pipeline.class_means {params.means:q} {output.units}"
        " --settings {params.settings:q} --code {params.code} > {log} 2>&1"
