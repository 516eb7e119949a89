"""Backbones that are not pre-trained here: fetched, or an epoch that pre-training kept."""


def checkpoint_file(wildcards):
    """The local checkpoint, where the entry names one."""
    return local_file(settings.backbones[wildcards.backbone])


rule fetch_backbone:
    input:
        checkpoint_file,
    output:
        weights="results/backbones/{backbone}/weights.safetensors",
    params:
        settings=lambda w: to_json(resolve.weights_settings(w.backbone)),
        code=lambda w: code_of("pipeline.backbones", *resolve.weights_components(w.backbone)),
    log:
        "results/logs/backbones/{backbone}/fetch.log",
    benchmark:
        "results/benchmarks/backbones/{backbone}/fetch.tsv"
    threads: 1
    resources:
        mem_mb=more_each_try(LIGHT_MEMORY),
        runtime=LIGHT_MINUTES,
    wildcard_constraints:
        backbone=names(settings.backbones, "torchvision", "checkpoint"),
    conda:
        ENVIRONMENT
    message:
        "Backbone {wildcards.backbone}: fetch and check the weights"
    shell:
        "python -m pipeline.backbones fetch {output.weights}"
        " --settings {params.settings:q} --code {params.code} > {log} 2>&1"


rule kept_epoch:
    input:
        checkpoints=lambda w: f"results/backbones/{settings.backbones[w.backbone].of}/checkpoints",
    output:
        weights="results/backbones/{backbone}/weights.safetensors",
    params:
        settings=lambda w: to_json({"epoch": settings.backbones[w.backbone].epoch}),
        code=lambda w: code_of("pipeline.backbones", resolve.architecture_module(w.backbone)),
    log:
        "results/logs/backbones/{backbone}/kept_epoch.log",
    benchmark:
        "results/benchmarks/backbones/{backbone}/kept_epoch.tsv"
    threads: 1
    resources:
        mem_mb=more_each_try(LIGHT_MEMORY),
        runtime=LIGHT_MINUTES,
    wildcard_constraints:
        backbone=names(settings.backbones, "kept_epoch"),
    conda:
        ENVIRONMENT
    message:
        "Backbone {wildcards.backbone}: take the checkpoint of an earlier epoch"
    shell:
        "python -m pipeline.backbones kept-epoch {input.checkpoints} {output.weights}"
        " --settings {params.settings:q} --code {params.code} > {log} 2>&1"
