"""``python -m pipeline.analysis.domain_gap``."""

from pathlib import Path
from typing import Annotated

import typer

from pipeline.command import CodeOption, SettingsOption, begin, run_command


def main(
    output: Annotated[Path, typer.Argument(help="The domain_gap table to write.")],
    manifest: Annotated[Path, typer.Argument(help="The target's manifest.")],
    images: Annotated[Path, typer.Argument(help="Its decoded images (.npy).")],
    start: Annotated[Path, typer.Argument(help="The backbone that fine-tuning started from.")],
    model: Annotated[Path, typer.Argument(help="The run's model.")],
    checkpoints: Annotated[Path, typer.Argument(help="Folder of the epochs that it kept.")],
    history: Annotated[Path, typer.Argument(help="The run's history.")],
    source_manifest: Annotated[Path, typer.Option(help="The source's manifest.")],
    source_images: Annotated[Path, typer.Option(help="Its decoded images.")],
    selection: Annotated[list[Path], typer.Option(help="A selection to measure; repeat it.")],
    membership: Annotated[list[Path], typer.Option(help="Units of that selection's images; repeat it.")],
    leaks: Annotated[Path | None, typer.Option(help="Source images to leave out.")] = None,
    settings: SettingsOption = "{}",
    code: CodeOption = "",
) -> None:
    """Measure the domain gap between a run's target and selections: at its start, kept epochs and its end."""
    with begin("pipeline.analysis.domain_gap", settings, code) as step:
        from pipeline.analysis.domain_gap.measure import RunFiles, measure
        from pipeline.backbones.kept import kept_files
        from pipeline.errors import PipelineError
        from pipeline.finetuning.reused import SourceFiles

        names = step.settings["selections"]
        if not len(names) == len(selection) == len(membership):
            raise PipelineError(
                f"found {len(selection)} selections and {len(membership)} memberships; "
                f"expected one of each for {', '.join(names)}"
            )
        inputs = {"manifest": manifest, "start": start, "model": model, "source": source_manifest}
        for number, (ranked, members) in enumerate(zip(selection, membership, strict=True)):
            inputs |= {f"selection{number}": ranked, f"membership{number}": members}
        inputs |= {f"epoch{epoch}": path for epoch, path in kept_files(checkpoints)}
        inputs |= {"leaks": leaks} if leaks else {}
        files = RunFiles(manifest, images, start, model, checkpoints, history)
        sources = [
            SourceFiles(source_manifest, source_images, members, ranked, leaks)
            for ranked, members in zip(selection, membership, strict=True)
        ]
        measure(output, files, sources, step.settings, step.provenance(**inputs))


if __name__ == "__main__":
    run_command(main)
