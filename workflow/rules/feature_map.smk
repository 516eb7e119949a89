"""Features of test images in the plane, of runs and of the untouched backbone."""

FEATURE_MAPS = "results/analysis/feature_map"
FEATURE_MAP = FEATURE_MAPS + "/runs/{backbone}/{target}/{selection}/{recipe}/seed{seed}.parquet"
UNTOUCHED_MAP = FEATURE_MAPS + "/untouched/{backbone}/{target}.parquet"


def map_of(panel):
    """The map that a panel draws."""
    return (UNTOUCHED_MAP if panel["recipe"] is None else FEATURE_MAP).format(**panel)


def map_metrics():
    """Metrics of the drawn runs, and of floors that classify the untouched backbone's features."""
    folders = [RUN.format(**run.keys()) for run in settings.mapped()]
    folders += [FLOOR.format(**floor.keys()) for floor in resolve.map_floors().values()]
    return [f"{folder}/metrics.parquet" for folder in folders]


rule feature_map:
    input:
        features=f"{RUN}/features.parquet",
        manifest="results/datasets/{target}/manifest.parquet",
    output:
        map=FEATURE_MAP,
    params:
        settings=lambda w: to_json(resolve.map_settings(w.backbone, w.target)),
        code=lambda w: code_of("pipeline.analysis.feature_map"),
    log:
        "results/logs/analysis/feature_map/{backbone}/{target}/{selection}/{recipe}/seed{seed}.log",
    benchmark:
        "results/benchmarks/analysis/feature_map/{backbone}/{target}/{selection}/{recipe}/seed{seed}.tsv"
    threads: 1
    resources:
        mem_mb=more_each_try(TRAINING_MEMORY),
        runtime=LIGHT_MINUTES,
    conda:
        ENVIRONMENT
    message:
        "Features in the plane of {wildcards.recipe}, selection {wildcards.selection}, seed {wildcards.seed}: {wildcards.backbone} on {wildcards.target}"
    shell:
        "python -m pipeline.analysis.feature_map {input.features} {input.manifest} {output.map}"
        " --settings {params.settings:q} --code {params.code} > {log} 2>&1"


use rule feature_map as untouched_feature_map with:
    input:
        features=penultimate_features,
        manifest="results/datasets/{target}/manifest.parquet",
    output:
        map=UNTOUCHED_MAP,
    log:
        "results/logs/analysis/feature_map/untouched/{backbone}/{target}.log",
    benchmark:
        "results/benchmarks/analysis/feature_map/untouched/{backbone}/{target}.tsv"
    message:
        "Features in the plane of the untouched backbone: {wildcards.backbone} on {wildcards.target}"


rule feature_map_figures:
    input:
        maps=[map_of(panel) for panel in resolve.map_panels()],
        metrics=map_metrics(),
    output:
        panels=f"{FEATURE_MAPS}/feature_maps.parquet",
        figures=report(
            directory(f"{FEATURE_MAPS}/figures"),
            patterns=["{figure}.svg"],
            category="Features in the plane",
            caption="../report/feature_map.rst",
        ),
    params:
        metrics=lambda w, input: [part for path in input.metrics for part in ("--metrics", path)],
        settings=to_json({"panels": resolve.map_panels(), "main_metric": main_metrics()}),
        code=lambda w: code_of("pipeline.analysis.feature_map_figures"),
    log:
        "results/logs/analysis/feature_map_figures.log",
    benchmark:
        "results/benchmarks/analysis/feature_map_figures.tsv"
    threads: 1
    resources:
        mem_mb=more_each_try(LIGHT_MEMORY),
        runtime=LIGHT_MINUTES,
    conda:
        ENVIRONMENT
    message:
        "Features in the plane of all drawn runs"
    shell:
        "python -m pipeline.analysis.feature_map_figures {output.panels} {output.figures} {input.maps}"
        " {params.metrics:q}"
        " --settings {params.settings:q} --code {params.code} > {log} 2>&1"
