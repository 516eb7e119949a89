"""Search a recipe's settings on the validation part: trials, then the choice."""

TRIAL = f"{SEARCH}/{{trial}}"
RUNG = f"{TRIAL}/rung{{rung}}"
# Where the training of a trial goes on from rung to rung.
STATE = f"{TRIAL}/state"


use rule finetune as trial with:
    input:
        unpack(start_of),
        unpack(reused),
        unpack(large_images),
        manifest="results/datasets/{target}/manifest.parquet",
        images=lambda w: images_of(w.target, w.backbone),
        chosen=taken,
    output:
        model=temp(f"{TRIAL}/model.safetensors"),
        checkpoints=temp(directory(f"{TRIAL}/checkpoints")),
        history=f"{TRIAL}/history.parquet",
        timings=f"{TRIAL}/timings.parquet",
        distances=temp(f"{TRIAL}/distances.parquet"),
        predictions=f"{TRIAL}/predictions.parquet",
        features=temp(f"{TRIAL}/features.parquet"),
    params:
        folder=subpath(output.model, parent=True),
        options=finetuning_options,
        launch=lambda w: launched(settings.recipes[w.recipe].gpu),
        settings=lambda w: to_json(resolve.trial_settings(run_of(w), w.trial)),
        code=lambda w: code_of("pipeline.finetuning", *resolve.finetuning_components(run_of(w))),
    log:
        "results/logs/searches/{backbone}/{target}/{selection}/{recipe}/{trial}.log",
    benchmark:
        "results/benchmarks/searches/{backbone}/{target}/{selection}/{recipe}/{trial}.tsv"
    message:
        "Trial {wildcards.trial} of {wildcards.recipe}, selection {wildcards.selection}: {wildcards.backbone} on {wildcards.target}"


def ranking_before(wildcards, rung):
    """The ranking of the rung before, once it is there: it decides which trials take part."""
    if not rung:
        return []
    return [checkpoints.rank.get(**{**wildcards, "rung": rung - 1}).output.ranking]


def judged(wildcards, rung):
    """The predictions of all trials, of a rung those that the one before chose."""
    names = list(resolve.trials(wildcards.recipe))
    if rung is None:
        return expand(f"{TRIAL}/predictions.parquet", **wildcards, trial=names)
    for ranking in ranking_before(wildcards, rung):
        names = [name for name in names if name in chosen_by(ranking)]
    return expand(f"{RUNG}/predictions.parquet", **{**wildcards, "rung": rung}, trial=names)


def chosen_by(ranking):
    """Names of the trials that a ranking chose."""
    import pyarrow.parquet as parquet

    rows = parquet.read_table(ranking, columns=["trial", "chosen"]).to_pylist()
    return {row["trial"] for row in rows if row["chosen"]}


def ranking_options(wildcards, input):
    """The option of the command that names the ranking before."""
    return [part for path in input.before for part in ("--before", path)]


def last_rung(wildcards):
    """The number of a search's last rung; None where its trials are trained in full."""
    return len(resolve.rungs(wildcards.recipe)) - 1 if resolve.rungs(wildcards.recipe) else None


def states(wildcards):
    """Folders that only a search still running needs."""
    if not resolve.rungs(wildcards.recipe):
        return []
    return [STATE.format(**wildcards, trial=name) for name in resolve.trials(wildcards.recipe)]


rule choose:
    input:
        predictions=lambda w: judged(w, last_rung(w)),
        before=lambda w: ranking_before(w, last_rung(w)),
    output:
        search=report(f"{SEARCH}/search.parquet", category="Searches", caption="../report/search.rst"),
    params:
        options=ranking_options,
        states=states,
        settings=lambda w: to_json(resolve.search_settings(w.target, w.recipe, last_rung(w))),
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
        "python -m pipeline.search {output.search} {input.predictions} {params.options:q}"
        " --settings {params.settings:q} --code {params.code} > {log} 2>&1"
        " && rm -rf {params.states:q}"
