"""Graftune: from a source of images to a comparison of ways to fine-tune on a target."""

from snakemake.utils import min_version

min_version("9.27")

if not workflow.configfiles:

    configfile: "config.yaml"


report: "workflow/report/workflow.rst"


include: "workflow/rules/common.smk"
include: "workflow/rules/datasets.smk"
include: "workflow/rules/pretraining.smk"
include: "workflow/rules/backbones.smk"
include: "workflow/rules/features.smk"
include: "workflow/rules/units.smk"
include: "workflow/rules/leakage.smk"
include: "workflow/rules/selection.smk"
include: "workflow/rules/recall.smk"
include: "workflow/rules/finetuning.smk"
include: "workflow/rules/search.smk"
include: "workflow/rules/evaluation.smk"
include: "workflow/rules/floors.smk"
include: "workflow/rules/claims.smk"
include: "workflow/rules/analysis.smk"
include: "workflow/rules/feature_map.smk"
include: "workflow/rules/report.smk"


if any(resolve.rungs(recipe) for recipe in settings.recipes):

    include: "workflow/rules/halving.smk"


rule all:
    default_target: True
    input:
        asked_for,


rule pretrained:
    """All backbones, nothing after them."""
    input:
        expand("results/backbones/{backbone}/weights.safetensors", backbone=settings.backbones),


rule selected:
    """All selections, no fine-tuning."""
    input:
        all_selections,


rule explained:
    """All selections between images and what they rest on, no fine-tuning."""
    input:
        all_explanations,
