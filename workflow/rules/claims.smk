"""Claims about the runs, answered."""


def claimed(table):
    """That table of every run whose claims are answered by it."""
    return [f"{RUN.format(**run.keys())}/{table}.parquet" for run in claimed_tables(settings)[table]]


def claimed_first_stages():
    """Timings of the stages before the runs whose timings are read; runs can share one."""
    stages = [(run, resolve.stage(run)) for run in claimed_tables(settings)["timings"]]
    return list(
        dict.fromkeys(
            f"{INITIALISATION.format(initialisation=stage.key, **run.keys())}/timings.parquet"
            for run, stage in stages
            if stage
        )
    )


def claims_options(wildcards, input):
    """The options of the command: every table under its name."""
    return [
        part
        for option, paths in input.items()
        for path in paths
        for part in (f"--{option.replace('_', '-')}", path)
    ]


rule claims:
    input:
        predictions=claimed("predictions"),
        metrics=claimed("metrics"),
        timings=claimed("timings"),
        first_stage=claimed_first_stages(),
    output:
        claims="results/claims.parquet",
        text=report("results/claims.txt", category="Claims", caption="../report/claims.rst"),
    params:
        options=claims_options,
        settings=to_json(claims_settings(settings)),
        code=lambda w: code_of("pipeline.claims"),
    log:
        "results/logs/claims.log",
    benchmark:
        "results/benchmarks/claims.tsv"
    threads: 1
    resources:
        mem_mb=more_each_try(LIGHT_MEMORY),
        runtime=LIGHT_MINUTES,
    conda:
        ENVIRONMENT
    message:
        "Answer the claims"
    shell:
        "python -m pipeline.claims {output.claims} {output.text} {params.options:q}"
        " --settings {params.settings:q} --code {params.code} > {log} 2>&1"
