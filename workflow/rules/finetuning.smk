"""Fine-tune in stages: initialisation, then the objective with or without reused data."""

SEARCH = "results/searches/{backbone}/{target}/{selection}/{recipe}"
INITIALISATION = "results/initialisations/{backbone}/{target}/{initialisation}/seed{seed}"


def deciding_stage(wildcards):
    """The searches that decide settings of a stage before fine-tuning."""
    searches = resolve.stage_of(wildcards.initialisation).searches
    keys = {"backbone": wildcards.backbone, "target": wildcards.target}
    return [
        f"{SEARCH}/search.parquet".format(**keys, selection=selection, recipe=recipe)
        for selection, recipe in searches
    ]


def chosen_options(wildcards, input):
    """The options of the command that name who decides settings."""
    return [part for path in input.chosen for part in ("--chosen", path)]


rule initialise:
    input:
        manifest="results/datasets/{target}/manifest.parquet",
        images=lambda w: images_of(w.target, w.backbone),
        originals=lambda w: originals_of(w.target, w.backbone),
        weights="results/backbones/{backbone}/weights.safetensors",
        chosen=deciding_stage,
    output:
        weights=f"{INITIALISATION}/weights.safetensors",
        carried=f"{INITIALISATION}/carried.safetensors",
        history=f"{INITIALISATION}/history.parquet",
        timings=f"{INITIALISATION}/timings.parquet",
        distances=f"{INITIALISATION}/distances.parquet",
    params:
        folder=subpath(output.weights, parent=True),
        options=lambda w, input: chosen_options(w, input) + originals_options(w, input),
        launch=lambda w: launched(resolve.stage_of(w.initialisation).settings["gpu"]),
        settings=lambda w: to_json({**resolve.stage_of(w.initialisation).settings, "seed": int(w.seed)}),
        code=lambda w: code_of(
            "pipeline.initialisation",
            f"pipeline.initialisation.{w.initialisation.rpartition('-')[0]}",
            resolve.architecture_module(w.backbone),
        ),
    log:
        "results/logs/initialisations/{backbone}/{target}/{initialisation}/seed{seed}.log",
    benchmark:
        "results/benchmarks/initialisations/{backbone}/{target}/{initialisation}/seed{seed}.tsv"
    threads: lambda w: threads_of(resolve.stage_of(w.initialisation).settings)
    resources:
        gpu=lambda w: resolve.stage_of(w.initialisation).settings["gpu"],
        mem_mb=more_each_try(TRAINING_MEMORY),
        runtime=TRAINING_MINUTES,
    conda:
        ENVIRONMENT
    message:
        "Initialise {wildcards.backbone} on {wildcards.target}: {wildcards.initialisation}, seed {wildcards.seed}"
    shell:
        "{params.launch} pipeline.initialisation {input.manifest} {input.images} {input.weights} {params.folder}"
        " {params.options:q} --settings {params.settings:q} --code {params.code} > {log} 2>&1"


def start_of(wildcards):
    """What a run or trial starts from: the backbone, or what the stage before made of it and hands over."""
    run = run_of(wildcards)
    stage = resolve.stage(run, wildcards.get("trial"))
    if stage is None:
        return {"weights": f"results/backbones/{run.backbone}/weights.safetensors"}
    folder = INITIALISATION.format(**run.keys(), initialisation=stage.key)
    return {"weights": f"{folder}/weights.safetensors", "carried": f"{folder}/carried.safetensors"}


def large_images(wildcards):
    """Images at their own sizes that crops are cut from, by the option that takes them."""
    run = run_of(wildcards)
    sides = {"originals": run.target} | ({"source_originals": run.source} if run.source else {})
    return {name: path for name, side in sides.items() for path in originals_of(side, run.backbone)}


def reused(wildcards):
    """What a run that reuses source data reads, by the option that takes it."""
    run = run_of(wildcards)
    if run.source is None:
        return {}
    key = resolve.units_key(run.selection)
    files = {
        "source_manifest": f"results/datasets/{run.source}/manifest.parquet",
        "source_images": images_of(run.source, run.backbone),
        "membership": f"results/units/{run.backbone}/{run.source}/{key}/membership.parquet",
        "selection": selection_of(run),
    }
    if settings.recipes[run.recipe].reuse.leaks == "exclude":
        files["leaks"] = leaks_of(run)
    return files


def taken(wildcards):
    """The search of another recipe that decides settings of a run or trial."""
    take = settings.recipes[wildcards.recipe].take
    if take is None:
        return []
    keys = {**wildcards, "selection": NO_SELECTION, "recipe": take.recipe}
    return [f"{SEARCH}/search.parquet".format(**keys)]


def chosen(wildcards):
    """The searches that decide settings of a run: another recipe's, and its own."""
    own = settings.recipes[wildcards.recipe].search is not None
    return [*taken(wildcards), *([f"{SEARCH}/search.parquet".format(**wildcards)] if own else [])]


def finetuning_options(wildcards, input):
    """The options of the command: layers of the stage before, what is reused, and who decides settings."""
    names = [name for name in start_of(wildcards) if name != "weights"]
    names += [*reused(wildcards), *large_images(wildcards)]
    named = [part for name in names for part in (f"--{name.replace('_', '-')}", input[name])]
    return named + chosen_options(wildcards, input)


rule finetune:
    input:
        unpack(start_of),
        unpack(reused),
        unpack(large_images),
        manifest="results/datasets/{target}/manifest.parquet",
        images=lambda w: images_of(w.target, w.backbone),
        chosen=chosen,
    output:
        model=f"{RUN}/model.safetensors",
        checkpoints=directory(f"{RUN}/checkpoints"),
        history=f"{RUN}/history.parquet",
        timings=f"{RUN}/timings.parquet",
        distances=f"{RUN}/distances.parquet",
        predictions=f"{RUN}/predictions.parquet",
        features=f"{RUN}/features.parquet",
    params:
        folder=subpath(output.model, parent=True),
        options=finetuning_options,
        launch=lambda w: launched(settings.recipes[w.recipe].gpu),
        settings=lambda w: to_json(resolve.finetuning_settings(run_of(w))),
        code=lambda w: code_of("pipeline.finetuning", *resolve.finetuning_components(run_of(w))),
    log:
        "results/logs/runs/{backbone}/{target}/{selection}/{recipe}/seed{seed}/finetune.log",
    benchmark:
        "results/benchmarks/runs/{backbone}/{target}/{selection}/{recipe}/seed{seed}/finetune.tsv"
    threads: lambda w: threads_of(settings.recipes[w.recipe].plain())
    resources:
        gpu=lambda w: settings.recipes[w.recipe].gpu,
        mem_mb=more_each_try(TRAINING_MEMORY),
        runtime=TRAINING_MINUTES,
    conda:
        ENVIRONMENT
    message:
        "Fine-tune {wildcards.backbone} on {wildcards.target}: {wildcards.recipe}, selection {wildcards.selection}, seed {wildcards.seed}"
    shell:
        "{params.launch} pipeline.finetuning {input.manifest} {input.images} {input.weights} {params.folder}"
        " {params.options:q} --settings {params.settings:q} --code {params.code} > {log} 2>&1"
