"""How many units of a concept each selection finds."""


def recalled_units():
    """Units of the sources, each once."""
    sources = [(ranking.backbone, ranking.source) for ranking in resolve.recalled()]
    return [
        f"results/units/{backbone}/{source}/classes/units.parquet"
        for backbone, source in dict.fromkeys(sources)
    ]


rule recall:
    input:
        selections=[selection_of(ranking) for ranking in resolve.recalled()],
        units=recalled_units(),
    output:
        recall="results/recall.parquet",
        text=report("results/recall.txt", category="Recall", caption="../report/recall.rst"),
        figures=report(
            directory("results/recall"),
            patterns=["{figure}.svg"],
            category="Recall",
            caption="../report/recall_figure.rst",
        ),
    params:
        units=[part for path in recalled_units() for part in ("--units", path)],
        settings=to_json(resolve.recall_settings()),
        code=lambda w: code_of("pipeline.recall"),
    log:
        "results/logs/recall.log",
    benchmark:
        "results/benchmarks/recall.tsv"
    threads: 1
    resources:
        mem_mb=more_each_try(LIGHT_MEMORY),
        runtime=LIGHT_MINUTES,
    conda:
        ENVIRONMENT
    message:
        "Recall of concepts by each selection"
    shell:
        "python -m pipeline.recall {output.recall} {output.text} {output.figures} {input.selections}"
        " {params.units:q}"
        " --settings {params.settings:q} --code {params.code} > {log} 2>&1"
