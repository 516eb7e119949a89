"""Metrics of each run, and all runs side by side."""


rule evaluate:
    input:
        predictions=f"{RUN}/predictions.parquet",
        features=f"{RUN}/features.parquet",
        manifest="results/datasets/{target}/manifest.parquet",
    output:
        metrics=f"{RUN}/metrics.parquet",
        per_class=f"{RUN}/per_class.parquet",
        confusion=f"{RUN}/confusion.parquet",
    params:
        settings=lambda w: to_json({"run": run_of(w).keys()}),
        code=lambda w: code_of("pipeline.evaluation"),
    log:
        "results/logs/runs/{backbone}/{target}/{selection}/{recipe}/seed{seed}/evaluate.log",
    benchmark:
        "results/benchmarks/runs/{backbone}/{target}/{selection}/{recipe}/seed{seed}/evaluate.tsv"
    threads: 1
    resources:
        mem_mb=more_each_try(LIGHT_MEMORY),
        runtime=LIGHT_MINUTES,
    conda:
        ENVIRONMENT
    message:
        "Evaluate {wildcards.recipe}, selection {wildcards.selection}, seed {wildcards.seed} on {wildcards.target}"
    shell:
        "python -m pipeline.evaluation {input.predictions} {input.features} {input.manifest}"
        " {output.metrics} {output.per_class} {output.confusion}"
        " --settings {params.settings:q} --code {params.code} > {log} 2>&1"


rule compare:
    input:
        metrics=[f"{folder}/metrics.parquet" for folder in run_folders()],
        floors=lambda w: [f"{folder}/metrics.parquet" for folder in floor_folders()],
    output:
        metrics="results/metrics.parquet",
        floors="results/floors.parquet",
        comparison="results/comparison.parquet",
        text=report("results/comparison.txt", category="Comparison", caption="../report/comparison.rst"),
    params:
        floors=lambda w, input: [part for path in input.floors for part in ("--floor", path)],
        settings=to_json({"main_metric": main_metrics(), "baselines": baselines(settings)}),
        code=lambda w: code_of("pipeline.comparison"),
    log:
        "results/logs/compare.log",
    benchmark:
        "results/benchmarks/compare.tsv"
    threads: 1
    resources:
        mem_mb=more_each_try(LIGHT_MEMORY),
        runtime=LIGHT_MINUTES,
    conda:
        ENVIRONMENT
    message:
        "Compare all runs"
    shell:
        "python -m pipeline.comparison {output.metrics} {output.floors} {output.comparison} {output.text}"
        " {input.metrics} {params.floors:q} --settings {params.settings:q} --code {params.code} > {log} 2>&1"
