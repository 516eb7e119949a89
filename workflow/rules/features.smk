"""Features of a dataset, by shards."""

SHARD = "results/features/{backbone}/{dataset}/shards/{shard}of{shards}.parquet"


rule extract_features:
    input:
        manifest="results/datasets/{dataset}/manifest.parquet",
        images=lambda w: images_of(w.dataset, w.backbone),
        weights="results/backbones/{backbone}/weights.safetensors",
    output:
        features=temp(SHARD),
    params:
        settings=lambda w: to_json(resolve.features_settings(w.backbone)),
        code=lambda w: code_of("pipeline.features", resolve.architecture_module(w.backbone)),
    log:
        "results/logs/features/{backbone}/{dataset}/{shard}of{shards}.log",
    benchmark:
        "results/benchmarks/features/{backbone}/{dataset}/{shard}of{shards}.tsv"
    threads: settings.features.threads
    resources:
        gpu=1,
        mem_mb=more_each_try(TRAINING_MEMORY),
        runtime=TRAINING_MINUTES,
    conda:
        ENVIRONMENT
    message:
        "Features of {wildcards.dataset} by {wildcards.backbone}: shard {wildcards.shard} of {wildcards.shards}"
    shell:
        "python -m pipeline.features {input.manifest} {input.images} {input.weights} {output.features}"
        " --shard {wildcards.shard} --shards {wildcards.shards}"
        " --settings {params.settings:q} --code {params.code} > {log} 2>&1"


def shards_of(wildcards):
    """The shards of a dataset's features, in order."""
    count = settings.datasets[wildcards.dataset].shards
    return expand(SHARD, shard=range(count), shards=count, allow_missing=True)


rule gather_features:
    input:
        shards_of,
    output:
        features="results/features/{backbone}/{dataset}/features.parquet",
    params:
        code=lambda w: code_of("pipeline.gathering"),
    log:
        "results/logs/features/{backbone}/{dataset}/gather.log",
    benchmark:
        "results/benchmarks/features/{backbone}/{dataset}/gather.tsv"
    threads: 1
    resources:
        mem_mb=more_each_try(TRAINING_MEMORY),
        runtime=LIGHT_MINUTES,
    conda:
        ENVIRONMENT
    message:
        "Features of {wildcards.dataset} by {wildcards.backbone}: gather the shards"
    shell:
        "python -m pipeline.gathering {output.features} {input} --code {params.code} > {log} 2>&1"
