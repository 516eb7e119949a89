"""Successive halving of a search: trials trained to a rung, and the ranking that says which go on.

The ranking is a checkpoint, since it decides which jobs there are. Snakemake plans every job of a cluster
with all rules as soon as there is one, so this file is read only where a recipe asks for halving.
"""


def rung_before(wildcards):
    """What a trial did in the rung before; it goes on from there."""
    rung = int(wildcards.rung)
    return [f"{RUNG}/predictions.parquet".format(**{**wildcards, "rung": rung - 1})] if rung else []


def going_on(wildcards, input):
    """The options of a run, and where the trial's training goes on from rung to rung."""
    return [*finetuning_options(wildcards, input), "--state", STATE.format(**wildcards)]


use rule finetune as trial_to_rung with:
    input:
        unpack(start_of),
        unpack(reused),
        unpack(large_images),
        manifest="results/datasets/{target}/manifest.parquet",
        images=lambda w: images_of(w.target, w.backbone),
        chosen=taken,
        before=rung_before,
    output:
        model=temp(f"{RUNG}/model.safetensors"),
        checkpoints=temp(directory(f"{RUNG}/checkpoints")),
        history=f"{RUNG}/history.parquet",
        timings=f"{RUNG}/timings.parquet",
        distances=temp(f"{RUNG}/distances.parquet"),
        predictions=f"{RUNG}/predictions.parquet",
        features=temp(f"{RUNG}/features.parquet"),
    params:
        folder=subpath(output.model, parent=True),
        options=going_on,
        launch=lambda w: launched(settings.recipes[w.recipe].gpu),
        settings=lambda w: to_json(resolve.trial_settings(run_of(w), w.trial, int(w.rung))),
        code=lambda w: code_of("pipeline.finetuning", *resolve.finetuning_components(run_of(w))),
    log:
        "results/logs/searches/{backbone}/{target}/{selection}/{recipe}/{trial}/rung{rung}.log",
    benchmark:
        "results/benchmarks/searches/{backbone}/{target}/{selection}/{recipe}/{trial}/rung{rung}.tsv"
    message:
        "Trial {wildcards.trial} of {wildcards.recipe} to rung {wildcards.rung}, selection {wildcards.selection}: {wildcards.backbone} on {wildcards.target}"


checkpoint rank:
    input:
        predictions=lambda w: judged(w, int(w.rung)),
        before=lambda w: ranking_before(w, int(w.rung)),
    output:
        ranking=f"{SEARCH}/rung{{rung}}.parquet",
    params:
        options=ranking_options,
        settings=lambda w: to_json(resolve.search_settings(w.target, w.recipe, int(w.rung))),
        code=lambda w: code_of("pipeline.search"),
    log:
        "results/logs/searches/{backbone}/{target}/{selection}/{recipe}/rung{rung}.log",
    benchmark:
        "results/benchmarks/searches/{backbone}/{target}/{selection}/{recipe}/rung{rung}.tsv"
    threads: 1
    resources:
        mem_mb=more_each_try(LIGHT_MEMORY),
        runtime=LIGHT_MINUTES,
    conda:
        ENVIRONMENT
    message:
        "Rank the trials of {wildcards.recipe} at rung {wildcards.rung}, selection {wildcards.selection}: {wildcards.backbone} on {wildcards.target}"
    shell:
        "python -m pipeline.search {output.ranking} {input.predictions} {params.options:q}"
        " --settings {params.settings:q} --code {params.code} > {log} 2>&1"
