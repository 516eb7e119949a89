"""Rank the source's units for a target."""


def source_units(wildcards):
    """The units table that a selection is over."""
    key = resolve.units_key(wildcards.selection)
    return f"results/units/{wildcards.backbone}/{wildcards.source}/{key}/units.parquet"


def mapping_path(wildcards):
    """The file of classes that go together, of a selection by names that has one."""
    return getattr(settings.selections[wildcards.selection], "mapping", None)


def selection_memory(wildcards, attempt):
    """More where images are units: the solver holds a number for each unit and target class."""
    by_sample = settings.selections[wildcards.selection].units.by == "sample"
    return attempt * (TRAINING_MEMORY if by_sample else LIGHT_MEMORY)


rule select:
    input:
        lambda w: existing(mapping_path(w)),
        source=source_units,
        target="results/units/{backbone}/{target}/classes/units.parquet",
    output:
        selection=report(
            "results/selections/{backbone}/{source}/{target}/{selection}.parquet",
            category="Selections",
            caption="../report/selection.rst",
        ),
    params:
        content=lambda w: content_of(mapping_path(w)),
        settings=lambda w: to_json(resolve.selection_settings(w.selection)),
        code=lambda w: code_of(
            "pipeline.selection",
            f"pipeline.selection.{settings.selections[w.selection].method}",
        ),
    log:
        "results/logs/selections/{backbone}/{source}/{target}/{selection}.log",
    benchmark:
        "results/benchmarks/selections/{backbone}/{source}/{target}/{selection}.tsv"
    threads: 1
    resources:
        mem_mb=selection_memory,
        runtime=LIGHT_MINUTES,
    conda:
        ENVIRONMENT
    message:
        "Selection {wildcards.selection} from {wildcards.source} for {wildcards.target}"
    shell:
        "python -m pipeline.selection {input.source} {input.target} {output.selection}"
        " --settings {params.settings:q} --code {params.code} > {log} 2>&1"


EXPLANATION = "results/explanations/{backbone}/{source}/{target}/{selection}"


def plan_of(run):
    """The plan of a ranking, or of a run that reuses source data."""
    return f"{EXPLANATION}/plan.parquet".format(**run._asdict())


def explanations_of_all_runs(wildcards):
    """The plan of every selection that a run reads, once."""
    return list(dict.fromkeys(plan_of(run) for run in settings.runs() if run.source))


def all_explanations(wildcards):
    """The plan of every selection between images, once, also of those that no run reads."""
    return [plan_of(ranking) for ranking in resolve.explainable()]


rule explain:
    input:
        selection="results/selections/{backbone}/{source}/{target}/{selection}.parquet",
        source=source_units,
        target="results/units/{backbone}/{target}/classes/units.parquet",
        features="results/features/{backbone}/{target}/features.parquet",
    output:
        plan=f"{EXPLANATION}/plan.parquet",
        margin=f"{EXPLANATION}/margin.parquet",
        stability=f"{EXPLANATION}/stability.parquet",
    params:
        folder=subpath(output.plan, parent=True),
        settings=to_json(settings.explanation.plain()),
        code=lambda w: code_of(
            "pipeline.explanation",
            f"pipeline.selection.{settings.selections[w.selection].method}",
        ),
    log:
        "results/logs/explanations/{backbone}/{source}/{target}/{selection}.log",
    benchmark:
        "results/benchmarks/explanations/{backbone}/{source}/{target}/{selection}.tsv"
    threads: 1
    resources:
        mem_mb=selection_memory,
        runtime=LIGHT_MINUTES,
    conda:
        ENVIRONMENT
    message:
        "Explain selection {wildcards.selection} from {wildcards.source} for {wildcards.target}"
    shell:
        "python -m pipeline.explanation {input.selection} {input.source} {input.target} {input.features}"
        " {params.folder} --settings {params.settings:q} --code {params.code} > {log} 2>&1"
