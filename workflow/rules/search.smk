"""Search a recipe's settings on the validation part: trials, then the choice."""

TRIAL = f"{SEARCH}/{{trial}}"


use rule finetune as trial with:
    input:
        unpack(reused),
        manifest="results/datasets/{target}/manifest.parquet",
        images=lambda w: images_of(w.target, w.backbone),
        weights="results/backbones/{backbone}/weights.safetensors",
        chosen=taken,
    output:
        model=temp(f"{TRIAL}/model.safetensors"),
        history=f"{TRIAL}/history.parquet",
        timings=f"{TRIAL}/timings.parquet",
        predictions=f"{TRIAL}/predictions.parquet",
        features=temp(f"{TRIAL}/features.parquet"),
    params:
        folder=subpath(output.model, parent=True),
        options=finetuning_options,
        settings=lambda w: to_json(resolve.trial_settings(run_of(w), w.trial)),
        code=lambda w: code_of("pipeline.finetuning", *resolve.finetuning_components(run_of(w))),
    log:
        "results/logs/searches/{backbone}/{target}/{selection}/{recipe}/{trial}.log",
    benchmark:
        "results/benchmarks/searches/{backbone}/{target}/{selection}/{recipe}/{trial}.tsv"
    message:
        "Trial {wildcards.trial} of {wildcards.recipe}, selection {wildcards.selection}: {wildcards.backbone} on {wildcards.target}"


rule choose:
    input:
        predictions=lambda w: expand(
            f"{TRIAL}/predictions.parquet", trial=resolve.trials(w.recipe), allow_missing=True
        ),
    output:
        search=report(f"{SEARCH}/search.parquet", category="Searches", caption="../report/search.rst"),
    params:
        settings=lambda w: to_json(resolve.search_settings(w.target, w.recipe)),
        code=lambda w: code_of("pipeline.search"),
    log:
        "results/logs/searches/{backbone}/{target}/{selection}/{recipe}/choose.log",
    benchmark:
        "results/benchmarks/searches/{backbone}/{target}/{selection}/{recipe}/choose.tsv"
    threads: 1
    resources:
        mem_mb=more_each_try(LIGHT_MEMORY),
        runtime=LIGHT_MINUTES,
    conda:
        ENVIRONMENT
    message:
        "Choose settings of {wildcards.recipe}, selection {wildcards.selection}: {wildcards.backbone} on {wildcards.target}"
    shell:
        "python -m pipeline.search {output.search} {input.predictions}"
        " --settings {params.settings:q} --code {params.code} > {log} 2>&1"
