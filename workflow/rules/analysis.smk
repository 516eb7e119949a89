"""Why reuse helped or did not: the domain gap of Theorem 1, and accuracy against it."""

GAP = "results/analysis/domain_gap/runs/{backbone}/{target}/{selection}/{recipe}/seed{seed}.parquet"
GAPS = "results/analysis/domain_gap"


def gap_of(wildcards):
    """What is measured of the run that a job's wildcards name."""
    return resolve.gap(run_of(wildcards))


def measured_sources(wildcards):
    """The source's files, and of each measured selection its table and its units."""
    gap = gap_of(wildcards)
    keys = [resolve.units_key(name) for name in gap.selections]
    units = f"results/units/{gap.run.backbone}/{gap.source}"
    files = {
        "source_manifest": f"results/datasets/{gap.source}/manifest.parquet",
        "source_images": images_of(gap.source, gap.run.backbone),
        "selections": [
            selection_of(gap.run._replace(source=gap.source, selection=name)) for name in gap.selections
        ],
        "memberships": [f"{units}/{key}/membership.parquet" for key in keys],
    }
    # As source images take part in training.
    if settings.recipes[gap.recipe].reuse.leaks == "exclude":
        files["leaks"] = leaks_of(gap.run._replace(source=gap.source))
    return files


def measured_options(wildcards, input):
    """The selections, their units and the leaks, as the command takes them."""
    named = [("--selection", path) for path in input.selections]
    named += [("--membership", path) for path in input.memberships]
    named += [("--leaks", input.leaks)] if "leaks" in input.keys() else []
    return [part for option in named for part in option]


rule domain_gap:
    input:
        unpack(measured_sources),
        manifest="results/datasets/{target}/manifest.parquet",
        images=lambda w: images_of(w.target, w.backbone),
        start=lambda w: start_of(w)["weights"],
        model=f"{RUN}/model.safetensors",
        checkpoints=f"{RUN}/checkpoints",
        history=f"{RUN}/history.parquet",
    output:
        gap=GAP,
    params:
        options=measured_options,
        settings=lambda w: to_json(resolve.gap_settings(gap_of(w))),
        code=lambda w: code_of("pipeline.analysis.domain_gap", *resolve.gap_components(gap_of(w))),
    log:
        "results/logs/analysis/domain_gap/{backbone}/{target}/{selection}/{recipe}/seed{seed}.log",
    benchmark:
        "results/benchmarks/analysis/domain_gap/{backbone}/{target}/{selection}/{recipe}/seed{seed}.tsv"
    threads: lambda w: settings.recipes[w.recipe].threads
    resources:
        gpu=1,
        mem_mb=more_each_try(TRAINING_MEMORY),
        runtime=TRAINING_MINUTES,
    conda:
        ENVIRONMENT
    message:
        "Domain gap along {wildcards.recipe}, selection {wildcards.selection}, seed {wildcards.seed}: {wildcards.backbone} on {wildcards.target}"
    shell:
        "python -m pipeline.analysis.domain_gap {output.gap} {input.manifest} {input.images} {input.start}"
        " {input.model} {input.checkpoints} {input.history}"
        " --source-manifest {input.source_manifest} --source-images {input.source_images}"
        " {params.options:q} --settings {params.settings:q} --code {params.code} > {log} 2>&1"


rule gap_and_accuracy:
    input:
        gaps=[GAP.format(**gap.run.keys()) for gap in resolve.gaps()],
        metrics=[f"{RUN}/metrics.parquet".format(**gap.run.keys()) for gap in resolve.gaps()],
    output:
        gaps=f"{GAPS}/domain_gap.parquet",
        summary=f"{GAPS}/gap_and_accuracy.parquet",
        figures=report(
            directory(f"{GAPS}/figures"),
            patterns=["{figure}.svg"],
            category="Domain gap",
            caption="../report/domain_gap.rst",
        ),
    params:
        metrics=lambda w, input: [part for path in input.metrics for part in ("--metrics", path)],
        settings=to_json({"main_metric": main_metrics()}),
        code=lambda w: code_of("pipeline.analysis.gap_and_accuracy"),
    log:
        "results/logs/analysis/gap_and_accuracy.log",
    benchmark:
        "results/benchmarks/analysis/gap_and_accuracy.tsv"
    threads: 1
    resources:
        mem_mb=more_each_try(LIGHT_MEMORY),
        runtime=LIGHT_MINUTES,
    conda:
        ENVIRONMENT
    message:
        "Domain gap and accuracy of all measured runs"
    shell:
        "python -m pipeline.analysis.gap_and_accuracy {output.gaps} {output.summary} {output.figures}"
        " {input.gaps} {params.metrics:q}"
        " --settings {params.settings:q} --code {params.code} > {log} 2>&1"
