"""Source images that are images of a target's validation or test part."""

HASH_SHARD = "results/hashes/{dataset}/shards/{shard}of{shards}.parquet"


rule hash_images:
    input:
        manifest="results/datasets/{dataset}/manifest.parquet",
    output:
        hashes=temp(HASH_SHARD),
    params:
        code=lambda w: code_of("pipeline.leakage.hashes"),
    log:
        "results/logs/hashes/{dataset}/{shard}of{shards}.log",
    benchmark:
        "results/benchmarks/hashes/{dataset}/{shard}of{shards}.tsv"
    threads: 1
    resources:
        mem_mb=more_each_try(LIGHT_MEMORY),
        runtime=TRAINING_MINUTES,
    conda:
        ENVIRONMENT
    message:
        "Hashes of {wildcards.dataset}: shard {wildcards.shard} of {wildcards.shards}"
    shell:
        "python -m pipeline.leakage.hashes {input.manifest} {output.hashes} --threads {threads}"
        " --shard {wildcards.shard} --shards {wildcards.shards} --code {params.code} > {log} 2>&1"


def hash_shards_of(wildcards):
    """The shards of a dataset's hashes, in order: as many as of its features."""
    count = settings.datasets[wildcards.dataset].shards
    return expand(HASH_SHARD, shard=range(count), shards=count, allow_missing=True)


rule gather_hashes:
    input:
        hash_shards_of,
    output:
        hashes="results/hashes/{dataset}/hashes.parquet",
    params:
        code=lambda w: code_of("pipeline.gathering"),
    log:
        "results/logs/hashes/{dataset}/gather.log",
    benchmark:
        "results/benchmarks/hashes/{dataset}/gather.tsv"
    threads: 1
    resources:
        mem_mb=more_each_try(LIGHT_MEMORY),
        runtime=LIGHT_MINUTES,
    conda:
        ENVIRONMENT
    message:
        "Hashes of {wildcards.dataset}: gather the shards"
    shell:
        "python -m pipeline.gathering {output.hashes} {input} --table hashes"
        " --code {params.code} > {log} 2>&1"


rule leaks:
    input:
        source_hashes="results/hashes/{source}/hashes.parquet",
        target_hashes="results/hashes/{target}/hashes.parquet",
        source_features="results/features/{backbone}/{source}/features.parquet",
        target_features="results/features/{backbone}/{target}/features.parquet",
    output:
        leaks="results/leaks/{backbone}/{source}/{target}.parquet",
    params:
        settings=to_json(settings.leakage.plain()),
        code=lambda w: code_of("pipeline.leakage"),
    log:
        "results/logs/leaks/{backbone}/{source}/{target}.log",
    benchmark:
        "results/benchmarks/leaks/{backbone}/{source}/{target}.tsv"
    threads: 1
    resources:
        mem_mb=more_each_try(TRAINING_MEMORY),
        runtime=LIGHT_MINUTES,
    conda:
        ENVIRONMENT
    message:
        "Leaks from {wildcards.target} into {wildcards.source} by {wildcards.backbone}"
    shell:
        "python -m pipeline.leakage {input.source_hashes} {input.target_hashes}"
        " {input.source_features} {input.target_features} {output.leaks}"
        " --settings {params.settings:q} --code {params.code} > {log} 2>&1"
