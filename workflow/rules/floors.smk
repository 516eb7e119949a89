"""What every recipe should stand above: classifiers of frozen features, and interpolated weights."""

FLOORS = "results/floors/{backbone}/{target}"
FLOOR = f"{FLOORS}/{{floor}}/seed{{seed}}"


def floor_folders():
    """The output folder of every floor, in the order of the config."""
    return [FLOOR.format(**floor.keys()) for floor in floors(settings)]


def penultimate_features(wildcards):
    """Penultimate features of the target: those that its units are made of, where they are these."""
    if has_features(settings, wildcards.backbone):
        return "results/features/{backbone}/{target}/features.parquet".format(**wildcards)
    return f"{FLOORS}/features.parquet".format(**wildcards)


def classifier_options(wildcards, key):
    """The settings of a classifier of features: its grid, what it is fitted on, and what it predicts."""
    own = {key: settings.floors.plain()[key]}
    return to_json(own | classifier_settings(settings, wildcards.backbone, wildcards.target))


rule floor_features:
    input:
        manifest="results/datasets/{target}/manifest.parquet",
        images=lambda w: images_of(w.target, w.backbone),
        weights="results/backbones/{backbone}/weights.safetensors",
    output:
        features=f"{FLOORS}/features.parquet",
    params:
        settings=lambda w: to_json(resolve.features_settings(w.backbone) | {"feature_layer": PENULTIMATE}),
        code=lambda w: code_of("pipeline.features", resolve.architecture_module(w.backbone)),
    log:
        "results/logs/floors/{backbone}/{target}/features.log",
    benchmark:
        "results/benchmarks/floors/{backbone}/{target}/features.tsv"
    threads: settings.features.threads
    resources:
        gpu=1,
        mem_mb=more_each_try(TRAINING_MEMORY),
        runtime=TRAINING_MINUTES,
    conda:
        ENVIRONMENT
    message:
        "Penultimate features of {wildcards.target} by {wildcards.backbone}"
    shell:
        "python -m pipeline.features {input.manifest} {input.images} {input.weights} {output.features}"
        " --settings {params.settings:q} --code {params.code} > {log} 2>&1"


rule nearest_neighbours:
    input:
        manifest="results/datasets/{target}/manifest.parquet",
        features=penultimate_features,
    output:
        predictions=f"{FLOORS}/neighbours/seed0/predictions.parquet",
        choices=f"{FLOORS}/neighbours/seed0/choices.parquet",
    params:
        folder=subpath(output.predictions, parent=True),
        settings=lambda w: classifier_options(w, "neighbours"),
        code=lambda w: code_of("pipeline.floors.neighbours"),
    log:
        "results/logs/floors/{backbone}/{target}/neighbours/seed0/nearest_neighbours.log",
    benchmark:
        "results/benchmarks/floors/{backbone}/{target}/neighbours/seed0/nearest_neighbours.tsv"
    threads: 1
    resources:
        mem_mb=more_each_try(TRAINING_MEMORY),
        runtime=LIGHT_MINUTES,
    conda:
        ENVIRONMENT
    message:
        "Nearest neighbours: {wildcards.backbone} on {wildcards.target}"
    shell:
        "python -m pipeline.floors.neighbours {input.manifest} {input.features} {params.folder}"
        " --settings {params.settings:q} --code {params.code} > {log} 2>&1"


rule linear_probe:
    input:
        manifest="results/datasets/{target}/manifest.parquet",
        features=penultimate_features,
    output:
        predictions=f"{FLOORS}/linear_probe/seed0/predictions.parquet",
        choices=f"{FLOORS}/linear_probe/seed0/choices.parquet",
        head=f"{FLOORS}/linear_probe/seed0/head.safetensors",
    params:
        folder=subpath(output.predictions, parent=True),
        settings=lambda w: classifier_options(w, "regularisation"),
        code=lambda w: code_of("pipeline.floors.linear_probe"),
    log:
        "results/logs/floors/{backbone}/{target}/linear_probe/seed0/linear_probe.log",
    benchmark:
        "results/benchmarks/floors/{backbone}/{target}/linear_probe/seed0/linear_probe.tsv"
    threads: 1
    resources:
        mem_mb=more_each_try(TRAINING_MEMORY),
        runtime=TRAINING_MINUTES,
    conda:
        ENVIRONMENT
    message:
        "Linear probe: {wildcards.backbone} on {wildcards.target}"
    shell:
        "python -m pipeline.floors.linear_probe {input.manifest} {input.features} {params.folder}"
        " --settings {params.settings:q} --code {params.code} > {log} 2>&1"


def interpolated(wildcards):
    """The run that a job interpolates with."""
    keys = (wildcards.backbone, wildcards.target, wildcards.recipe, int(wildcards.seed))
    return interpolated_run(settings, *keys)


rule interpolate:
    input:
        manifest="results/datasets/{target}/manifest.parquet",
        images=lambda w: images_of(w.target, w.backbone),
        weights="results/backbones/{backbone}/weights.safetensors",
        head=f"{FLOORS}/linear_probe/seed0/head.safetensors",
        model=lambda w: f"{RUN}/model.safetensors".format(**interpolated(w).keys()),
    output:
        predictions=f"{FLOORS}/interpolation-{{recipe}}/seed{{seed}}/predictions.parquet",
        features=f"{FLOORS}/interpolation-{{recipe}}/seed{{seed}}/features.parquet",
        choices=f"{FLOORS}/interpolation-{{recipe}}/seed{{seed}}/choices.parquet",
    params:
        folder=subpath(output.predictions, parent=True),
        settings=lambda w: to_json(interpolation_settings(settings, interpolated(w))),
        code=lambda w: code_of("pipeline.floors.interpolation", resolve.architecture_module(w.backbone)),
    log:
        "results/logs/floors/{backbone}/{target}/interpolation-{recipe}/seed{seed}/interpolate.log",
    benchmark:
        "results/benchmarks/floors/{backbone}/{target}/interpolation-{recipe}/seed{seed}/interpolate.tsv"
    threads: lambda w: settings.recipes[w.recipe].threads
    resources:
        gpu=1,
        mem_mb=more_each_try(TRAINING_MEMORY),
        runtime=TRAINING_MINUTES,
    conda:
        ENVIRONMENT
    message:
        "Interpolate weights: {wildcards.recipe}, seed {wildcards.seed}, of {wildcards.backbone} on {wildcards.target}"
    shell:
        "python -m pipeline.floors.interpolation {input.manifest} {input.images} {input.weights} {input.head}"
        " {input.model} {params.folder} --settings {params.settings:q} --code {params.code} > {log} 2>&1"


def floor_of(wildcards):
    """The floor that a job's wildcards name."""
    keys = (wildcards.backbone, wildcards.target, wildcards.floor, int(wildcards.seed))
    return next(floor for floor in floors(settings) if floor[:4] == keys)


def classified_features(wildcards):
    """Features of the images that a floor predicts: the mixture's own, or the backbone's."""
    own = floor_of(wildcards).run is not None
    return f"{FLOOR}/features.parquet".format(**wildcards) if own else penultimate_features(wildcards)


use rule evaluate as evaluate_floor with:
    input:
        predictions=f"{FLOOR}/predictions.parquet",
        features=classified_features,
        manifest="results/datasets/{target}/manifest.parquet",
    output:
        metrics=f"{FLOOR}/metrics.parquet",
        per_class=f"{FLOOR}/per_class.parquet",
        confusion=f"{FLOOR}/confusion.parquet",
    params:
        settings=lambda w: to_json({"run": floor_of(w).row()}),
        code=lambda w: code_of("pipeline.evaluation"),
    log:
        "results/logs/floors/{backbone}/{target}/{floor}/seed{seed}/evaluate.log",
    benchmark:
        "results/benchmarks/floors/{backbone}/{target}/{floor}/seed{seed}/evaluate.tsv"
    message:
        "Evaluate {wildcards.floor}, seed {wildcards.seed}: {wildcards.backbone} on {wildcards.target}"
