"""``python -m pipeline.finetuning``."""

from pathlib import Path
from typing import Annotated

import typer

from pipeline.command import CodeOption, SettingsOption, begin, run_command


def main(
    manifest: Annotated[Path, typer.Argument(help="The target's manifest.")],
    images: Annotated[Path, typer.Argument(help="Its decoded images (.npy).")],
    weights: Annotated[Path, typer.Argument(help="The backbone to start from.")],
    folder: Annotated[Path, typer.Argument(help="Gets model, history, predictions, features.")],
    carried: Annotated[Path | None, typer.Option(help="Layers that the stage before hands over.")] = None,
    originals: Annotated[Path | None, typer.Option(help="Its images at their own sizes.")] = None,
    source_manifest: Annotated[Path | None, typer.Option(help="The source's manifest.")] = None,
    source_images: Annotated[Path | None, typer.Option(help="Its decoded images.")] = None,
    source_originals: Annotated[Path | None, typer.Option(help="Its images at their own sizes.")] = None,
    membership: Annotated[Path | None, typer.Option(help="Its images' units.")] = None,
    selection: Annotated[Path | None, typer.Option(help="The selected units.")] = None,
    leaks: Annotated[Path | None, typer.Option(help="Source images to leave out.")] = None,
    chosen: Annotated[list[Path] | None, typer.Option(help="A search that decides some settings.")] = None,
    state: Annotated[
        Path | None, typer.Option(help="Where a training that goes on has its state; FOLDER by default.")
    ] = None,
    settings: SettingsOption = "{}",
    code: CodeOption = "",
) -> None:
    """Fine-tune one run; a killed run resumes from its last epoch."""
    with begin("pipeline.finetuning", settings, code) as step:
        from pipeline.finetuning.finetune import finetune
        from pipeline.finetuning.reused import SourceFiles
        from pipeline.tables.chosen import with_chosen

        source, inputs = None, {"manifest": manifest, "weights": weights}
        if source_manifest and source_images and membership and selection:
            source = SourceFiles(
                source_manifest, source_images, membership, selection, leaks, source_originals
            )
            inputs |= {"source": source_manifest, "membership": membership, "selection": selection}
            inputs |= {"leaks": leaks} if leaks else {}
        inputs |= {"carried": carried} if carried else {}
        step, searches = with_chosen(step, chosen or [])
        provenance = step.provenance(**inputs, **searches)
        finetune(
            *(manifest, images, weights, folder, source, step.settings, provenance),
            state=state,
            carried=carried,
            originals=originals,
        )


if __name__ == "__main__":
    run_command(main)
