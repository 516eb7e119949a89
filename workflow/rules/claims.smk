"""Claims about the runs, answered."""


rule claims:
    input:
        [f"{RUN.format(**run.keys())}/predictions.parquet" for run in paired_runs(settings)],
    output:
        claims="results/claims.parquet",
        text=report("results/claims.txt", category="Claims", caption="../report/claims.rst"),
    params:
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
        "python -m pipeline.claims {output.claims} {output.text} {input}"
        " --settings {params.settings:q} --code {params.code} > {log} 2>&1"
