"""Make the manifest of a dataset: python -m pipeline.datasets OUTPUT --settings JSON."""

import importlib
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.command import CodeOption, SettingsOption, Step, begin, run_command
from pipeline.errors import PipelineError, did_you_mean

if TYPE_CHECKING:
    from pipeline.provenance import Provenance

# Where a dataset lies on this machine.
PLACES = ("path", "root")
READERS = ("csv", "image_folder", "parquet", "published", "torchvision")


def main(
    output: Annotated[Path, typer.Argument(help="The manifest to write.")],
    settings: SettingsOption,
    code: CodeOption = "",
    threads: Annotated[int, typer.Option(min=1, help="Threads that decode.")] = 1,
) -> None:
    """Read a dataset as its entry in the config says, check every image, write the manifest.

    The settings are the entry in full, and may have the digest of its files as `content`.
    """
    from pipeline.datasets.content import dataset_digest
    from pipeline.datasets.manifest import write_manifest

    with begin("pipeline.datasets", settings, code) as step:
        entry = step.settings
        name = str(entry.get("format"))
        if name not in READERS:
            raise PipelineError(
                f"format: found {name!r}; allowed: {', '.join(READERS)}{did_you_mean(name, READERS)}"
            )
        # Only the reader that the settings name is loaded: the job's code digest names no other.
        reader = importlib.import_module(f"pipeline.datasets.{name}")
        content = entry.get("content") or dataset_digest(entry)
        write_manifest(reader.read(entry), output, entry, _record(step, content), threads)


def _record(step: Step, content: str | None) -> "Provenance":
    """What made the manifest: the files' content says what was read, wherever they lie."""
    record = step.provenance(**({"data": content} if content else {}))
    placeless = {name: value for name, value in step.settings.items() if name not in PLACES}
    return replace(record, settings=placeless)


if __name__ == "__main__":
    run_command(main)
