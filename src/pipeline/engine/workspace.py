"""Where a training keeps its files."""

import fcntl
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from pipeline.engine.distributed import rank
from pipeline.engine.records import Record
from pipeline.errors import PipelineError
from pipeline.provenance import Provenance


@dataclass
class Workspace:
    """Where one training keeps its files; inside ``with``, no other training writes there.

    Where several processes train together, the first of them alone writes.

    Attributes:
        folder: Holds ``history.jsonl``, ``timings.jsonl`` and ``distances.jsonl``, in the end the tables.
        stage: Name of the stage in history and timings.
        provenance: What this training is; its checkpoints are good for no other.
        state: Holds what a killed run resumes from, and keeps it at the end, for one that goes on with
            another folder. None is `folder`, which loses it.
        identity: The record that checkpoints belong to, where it is not `provenance`.
    """

    folder: Path
    stage: str
    provenance: Provenance
    state: Path | None = None
    identity: Provenance | None = None

    def __post_init__(self) -> None:
        self.folder = Path(self.folder)
        self.history = Record("history", self.folder / "history.parquet")
        self.timings = Record("timings", self.folder / "timings.parquet")
        self.distances = Record("distances", self.folder / "distances.parquet")
        self.records = (self.history, self.timings, self.distances)
        place = self.state or self.folder
        self.resume = place / "resume.safetensors"
        self.best = place / "best.safetensors"
        self.writes = rank() == 0
        self._held: IO[bytes] | None = None

    @property
    def digest(self) -> str:
        """Of what its checkpoints belong to."""
        return (self.identity or self.provenance).digest()

    def __enter__(self) -> "Workspace":
        """Hold the folder of the state and remove what killed writers left there.

        Raises:
            PipelineError: If another process holds it: two would mix their histories.
        """
        if not self.writes:
            return self
        place = self.resume.parent
        for folder in (place, self.folder):
            folder.mkdir(parents=True, exist_ok=True)
        self._held = (place / self.history.lines.name).open("ab")
        try:
            fcntl.flock(self._held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self._held.close()
            raise PipelineError(
                f"{place}: another process is training here; wait until it is done, or end it"
            ) from error
        except OSError:
            pass  # a file system without locks
        for leftover in place.rglob(".*.tmp"):
            leftover.unlink(missing_ok=True)
        for lines, kept in self._lines_elsewhere():
            if kept.exists() and not lines.exists():
                shutil.copyfile(kept, lines)
        return self

    def __exit__(self, *_: object) -> None:
        """Let go of the folder; a killed process does so too."""
        if self._held is not None:
            self._held.close()

    def sizes(self) -> list[int]:
        """Bytes of each record so far."""
        return [record.size() for record in self.records]

    def go_back(self, sizes: Sequence[int]) -> None:
        """Forget what came after so many bytes of each record."""
        for record, size in zip(self.records, sizes, strict=True):
            if self.writes:
                record.truncate(size)

    def add_metrics(self, epoch: int, step: int, split: str, metrics: Mapping[str, float]) -> None:
        """Append metrics of one epoch to the history."""
        place = {"stage": self.stage, "epoch": epoch, "step": step, "split": split}
        rows = [{**place, "metric": metric, "value": value} for metric, value in metrics.items()]
        if self.writes:
            self.history.append(rows)

    def add_timing(self, epoch: int, images: int, seconds: float, device: str) -> None:
        """Append what an epoch took."""
        row = {"stage": self.stage, "epoch": epoch, "images": images}
        if self.writes:
            self.timings.append([{**row, "seconds": round(seconds, 4), "device": device}])

    def add_distances(self, epoch: int, distances: Mapping[str, float]) -> None:
        """Append how far each weight has come by an epoch."""
        if self.writes:
            self.distances.append(
                [
                    {"stage": self.stage, "epoch": epoch, "weight": name, "distance": distance}
                    for name, distance in distances.items()
                ]
            )

    def finish(self) -> None:
        """Write the tables of the records; remove what only a training that goes on needs."""
        if not self.writes:
            return
        for record in self.records:
            record.finish(self.provenance)
        for lines, kept in self._lines_elsewhere():
            shutil.copyfile(lines, kept)
        if self.state is None:
            self.resume.unlink(missing_ok=True)
            self.best.unlink(missing_ok=True)
        for record in self.records:
            record.discard()

    def _lines_elsewhere(self) -> list[tuple[Path, Path]]:
        """Lines of this training, and where the state keeps them."""
        if self.state is None:
            return []
        return [(record.lines, self.state / record.lines.name) for record in self.records]
