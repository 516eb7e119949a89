"""Pre-train a backbone on the source."""


rule pretrain:
    input:
        manifest=lambda w: f"results/datasets/{settings.backbones[w.backbone].dataset}/manifest.parquet",
        images=lambda w: images_of(settings.backbones[w.backbone].dataset, w.backbone),
        originals=lambda w: originals_of(settings.backbones[w.backbone].dataset, w.backbone),
    output:
        weights="results/backbones/{backbone}/weights.safetensors",
        history="results/backbones/{backbone}/history.parquet",
        timings="results/backbones/{backbone}/timings.parquet",
        distances="results/backbones/{backbone}/distances.parquet",
        checkpoints=directory("results/backbones/{backbone}/checkpoints"),
    params:
        folder=subpath(output.weights, parent=True),
        options=originals_options,
        launch=lambda w: launched(settings.backbones[w.backbone].method.gpu),
        settings=lambda w: to_json(resolve.weights_settings(w.backbone)),
        code=lambda w: code_of(
            "pipeline.pretraining",
            f"pipeline.pretraining.{settings.backbones[w.backbone].method.name}",
            resolve.architecture_module(w.backbone),
        ),
    log:
        "results/logs/backbones/{backbone}/pretrain.log",
    benchmark:
        "results/benchmarks/backbones/{backbone}/pretrain.tsv"
    threads: lambda w: threads_of(settings.backbones[w.backbone].method.plain())
    resources:
        gpu=lambda w: settings.backbones[w.backbone].method.gpu,
        mem_mb=more_each_try(TRAINING_MEMORY),
        runtime=TRAINING_MINUTES,
    wildcard_constraints:
        backbone=names(settings.backbones, "pretraining"),
    conda:
        ENVIRONMENT
    message:
        "Backbone {wildcards.backbone}: pre-train"
    shell:
        "{params.launch} pipeline.pretraining {input.manifest} {input.images} {params.folder}"
        " {params.options:q} --settings {params.settings:q} --code {params.code} > {log} 2>&1"
