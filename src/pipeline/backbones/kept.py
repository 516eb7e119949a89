"""Checkpoints of a backbone that its training keeps along the way."""

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from pipeline.backbones.backbone import Backbone
from pipeline.backbones.files import save_backbone
from pipeline.engine.distributed import rank
from pipeline.errors import PipelineError
from pipeline.provenance import Provenance
from pipeline.tables import atomic_path

CHECKPOINTS = "checkpoints"
# Where they are until the end: Snakemake removes the outputs of a killed job, this is none.
KEPT = "kept"


def kept_file(checkpoints: Path, epoch: int) -> Path:
    """The checkpoint after an epoch, in a folder of checkpoints."""
    return checkpoints / f"epoch_{epoch:04}.safetensors"


def kept_files(checkpoints: Path) -> Iterator[tuple[int, Path]]:
    """Epoch and file of every checkpoint in a folder, in their order."""
    for file in sorted(checkpoints.glob("epoch_*.safetensors")):
        yield int(file.stem.removeprefix("epoch_")), file


class KeptEpochs:
    """Keeps ``checkpoints/epoch_0001.safetensors`` and so on of a training.

    Args:
        folder: Where the training has its outputs.
        epochs: After which epochs, from 1.
        trained: The epochs that are trained.
        provenance: Kept in every file, with ``epoch`` among the settings.

    Raises:
        PipelineError: If one of the epochs is not trained.
    """

    def __init__(self, folder: Path, epochs: Sequence[int], trained: range, provenance: Provenance):
        self.folder, self.epochs, self.provenance = folder, epochs, provenance
        outside = [epoch for epoch in epochs if epoch not in trained]
        if outside:
            first, last = trained[0], trained[-1]
            where = f"outside epochs {first} to {last}" if first > 1 else f"beyond the {last} epochs"
            raise PipelineError(f"keep_epochs {outside} lie {where} of the budget")

    def keep(self, epoch: int, backbone: Backbone) -> None:
        """Save the backbone, if this is one of the epochs; of several processes, the first does."""
        if epoch in self.epochs and rank() == 0:
            settings = {**self.provenance.settings, "epoch": epoch}
            path = kept_file(self.folder / KEPT, epoch)
            save_backbone(path, backbone, replace(self.provenance, settings=settings))

    def hand_over(self) -> None:
        """Put the files where they belong."""
        checkpoints = self.folder / CHECKPOINTS
        shutil.rmtree(checkpoints, ignore_errors=True)
        checkpoints.mkdir(parents=True)
        for epoch in self.epochs:
            with atomic_path(kept_file(checkpoints, epoch)) as temporary:
                shutil.copyfile(kept_file(self.folder / KEPT, epoch), temporary)

    def discard(self) -> None:
        """Remove what only a resumed training needs."""
        shutil.rmtree(self.folder / KEPT, ignore_errors=True)
