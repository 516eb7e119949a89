"""``python -m pipeline.estimate``."""

from pathlib import Path
from typing import Annotated

import typer

from pipeline.command import run_command

# What NVIDIA's own training of ResNet-50 v1.5 reaches on one A100 (80 GB) in TF32, the arithmetic of
# PyTorch's convolutions at precision float32: 938 images/s x 3 x 8.18 GFLOPs, 15 % of the card's 156
# (DeepLearningExamples, PyTorch/Classification/ConvNets/resnet50v1.5/README.md, container 21.03).
REACHED = 23.0


def main(
    config: Annotated[Path, typer.Argument(help="The config.")] = Path("config.yaml"),
    gpu_tflops: Annotated[
        float,
        typer.Option(
            min=0.001,
            help="Tera-FLOP/s that training actually reaches; by default what NVIDIA's own ResNet-50 reaches "
            "on an A100 in TF32 (15 % of its peak).",
        ),
    ] = REACHED,
    results: Annotated[Path, typer.Option(help="The results folder, for what was measured.")] = Path(
        "results"
    ),
) -> None:
    """Say how many jobs a config means, and how many hours of a GPU, before anything runs.

    Hours are estimated from FLOPs until runs have finished: then what they took counts.
    """
    from pipeline.estimate.estimate import estimate

    typer.echo(estimate(config, gpu_tflops, results))


if __name__ == "__main__":
    run_command(main)
