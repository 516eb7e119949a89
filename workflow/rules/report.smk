"""One page of all runs."""

import mimetypes

# `snakemake --report` asks; a selection is offered for download.
mimetypes.add_type("application/vnd.apache.parquet", ".parquet")

# What the command reads in the folders that its options name.
READ_IN = {
    "dataset": ["manifest.parquet"],
    "backbone": ["weights.safetensors"],
    "units": ["units.parquet", "membership.parquet"],
    "explanation": ["plan.parquet", "margin.parquet", "stability.parquet"],
    "search": ["search.parquet"],
    "initialisation": ["history.parquet", "timings.parquet"],
    "run": ["history.parquet", "timings.parquet"],
    "floor": ["metrics.parquet", "choices.parquet"],
}


def unique(items):
    """The items in order, each once."""
    return list(dict.fromkeys(items))


def reported_backbones():
    """Backbones of any run."""
    return unique(run.backbone for run in settings.runs())


def reported_datasets():
    """What backbones were pre-trained on here, what runs reuse, and their targets."""
    sources = [settings.source_of(backbone) for backbone in reported_backbones()]
    used = [name for run in settings.runs() for name in (run.source, run.target)]
    return unique(filter(None, [*sources, *used]))


def reported_images():
    """Images to take examples from: of the datasets on both sides of a selection, each once."""
    shown = {}
    for run in filter(lambda run: run.source, settings.runs()):
        for dataset in (run.source, run.target):
            shown.setdefault(dataset, images_of(dataset, run.backbone))
    return list(shown.values())


def reported_units():
    """Folders of the units on both sides of a selection."""
    return unique(
        f"results/units/{run.backbone}/{dataset}/{key}"
        for run in settings.runs()
        if run.source
        for dataset, key in [(run.source, resolve.units_key(run.selection)), (run.target, "classes")]
    )


def reported_initialisations():
    """Folders of first stages; recipes can share one."""
    stages = [(run, resolve.stage(run)) for run in settings.runs()]
    return unique(
        INITIALISATION.format(initialisation=stage.key, **run.keys()) for run, stage in stages if stage
    )


def reported_explanations():
    """Folders that explain the selections that runs read."""
    return [str(Path(plan).parent) for plan in explanations_of_all_runs(None)]


def reported_searches():
    """Folders of the searches that decide settings of runs: those they take settings from, and their own."""
    folders = []
    for run in settings.runs():
        recipe = settings.recipes[run.recipe]
        if recipe.take:
            folders.append(
                SEARCH.format(**run.keys() | {"selection": NO_SELECTION, "recipe": recipe.take.recipe})
            )
        if recipe.search:
            folders.append(SEARCH.format(**run.keys()))
    return unique(folders)


def reported_where_asked():
    """Recall of concepts and feature maps with figures, claims, domain gaps: each where it is asked for."""
    shown = {}
    if resolve.recalled():
        shown |= {"recall": ["results/recall.parquet"], "recall-figures": ["results/recall"]}
    if settings.claims.questions:
        shown["claims"] = ["results/claims.parquet"]
    if resolve.gaps():
        shown["domain-gap"] = [f"{GAPS}/gap_and_accuracy.parquet"]
    if settings.mapped():
        shown |= {
            "feature-maps": [f"{FEATURE_MAPS}/feature_maps.parquet"],
            "feature-map-figures": [f"{FEATURE_MAPS}/figures"],
        }
    return shown


def reported():
    """The options of the command, and the folders or files that each is given."""
    return {
        "dataset": [f"results/datasets/{name}" for name in reported_datasets()],
        "images": reported_images(),
        "backbone": [f"results/backbones/{name}" for name in reported_backbones()],
        "units": reported_units(),
        "selection": selections_of_all_runs(None),
        "leaks": unique(leaks_of(run) for run in settings.runs() if run.source),
        "explanation": reported_explanations(),
        "search": reported_searches(),
        "initialisation": reported_initialisations(),
        "run": run_folders(),
        "floor": floor_folders(),
        **reported_where_asked(),
    }


def reported_files(wildcards):
    """Every file behind those options."""
    # Of trials that were halved, the search's own table says how far each went.
    trials = [
        f"{folder}/{trial}/timings.parquet"
        for folder in reported_searches()
        if not resolve.rungs(Path(folder).name)
        for trial in resolve.trials(Path(folder).name)
    ]
    pretrained = [name for name in reported_backbones() if settings.backbones[name].origin == "pretraining"]
    return (
        trials
        + [
            f"{path}/{file}" if file else path
            for option, paths in reported().items()
            for path in paths
            for file in READ_IN.get(option, [""])
        ]
        + expand("results/backbones/{name}/{file}.parquet", name=pretrained, file=["history", "timings"])
    )


def reported_options(wildcards):
    """The options as the command takes them."""
    return [part for option, paths in reported().items() for path in paths for part in (f"--{option}", path)]


def report_settings(wildcards):
    """What the tables do not say: what was asked, the metric that counts, what was left at its default."""
    used = {
        "backbones": reported_backbones(),
        "recipes": unique(run.recipe for run in settings.runs()),
        "selections": unique(run.selection for run in settings.runs() if run.source),
    }
    asked = {"name", "backbones", "targets", "selections", "recipes"}
    return to_json(
        {
            "experiments": [entry.model_dump(mode="json", include=asked) for entry in settings.experiments],
            "main_metric": main_metrics(),
            "baselines": baselines(settings),
            "written": {
                section: {
                    name: getattr(settings, section)[name].model_dump(mode="json", exclude_defaults=True)
                    for name in names
                }
                for section, names in used.items()
            },
        }
    )


rule report:
    input:
        reported_files,
        comparison="results/comparison.parquet",
        metrics="results/metrics.parquet",
    output:
        page=report("results/report.html", category="Report", caption="../report/report.rst"),
    params:
        options=reported_options,
        settings=report_settings,
        code=lambda w: code_of("pipeline.report"),
    log:
        "results/logs/report.log",
    benchmark:
        "results/benchmarks/report.tsv"
    threads: 1
    resources:
        mem_mb=more_each_try(LIGHT_MEMORY),
        runtime=LIGHT_MINUTES,
    conda:
        ENVIRONMENT
    message:
        "Report of all runs"
    shell:
        "python -m pipeline.report {output.page} --comparison {input.comparison} --metrics {input.metrics}"
        " {params.options:q} --settings {params.settings:q} --code {params.code} > {log} 2>&1"
