"""What an entry of a published set says, and its official archive as it lies on disk."""

import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.datasets.files import image_files
from pipeline.errors import PipelineError, listed


class Row(NamedTuple):
    """An image: its path inside the set's folder, its part (None where no part is official), its label."""

    path: str
    part: str | None
    label: int


class Images(NamedTuple):
    """The images of a set in any order, and its classes in label order."""

    rows: list[Row]
    class_names: list[str]


class Erratum(NamedTuple):
    """A printed count that cannot be right: what it is read as, and why."""

    read_as: int
    reason: str


@dataclass(frozen=True)
class PublishedSet:
    """A published set of images.

    Attributes:
        title: Its full name.
        citation: Who published it, and where.
        page: Its home page.
        archives: What to download, and where to unpack it below the entry's `path`.
        folder: Its folder below the entry's `path`, named as the archive (or torchvision) names it.
        files: Files in that folder that hold labels and parts.
        folders: Folders there that hold the images.
        metric: The accuracy that papers report, ``top1`` or ``mean_per_class``.
        counts: By the one who counted (``official`` or a paper), what was counted, as printed:
            ``classes``, ``images``, ``train``, ``validation``, ``test``, and ``train and validation``
            where these are joined.
        list_images: Lists the images of an archive as the given counter counted them.
        errata: Printed counts that are misprints, by counter and by what was counted.
        train_per_class: Images of each class that are drawn to train on where no part is official;
            the others are for testing.
        torchvision: Class in `torchvision.datasets` that downloads the archive.
    """

    title: str
    citation: str
    page: str
    archives: str
    folder: str
    files: tuple[str, ...]
    folders: tuple[str, ...]
    metric: str
    counts: Mapping[str, Mapping[str, int]]
    list_images: Callable[["Archive", str], Images]
    errata: Mapping[tuple[str, str], Erratum] = field(default_factory=dict)
    train_per_class: int | None = None
    torchvision: str | None = None

    def expected(self, counter: str) -> dict[str, int]:
        """The counts of one counter, misprints corrected."""
        return {
            what: self.errata[counter, what].read_as if (counter, what) in self.errata else count
            for what, count in self.counts[counter].items()
        }


@dataclass(frozen=True)
class Archive:
    """A set's official archive, unpacked below `root`.

    Attributes:
        entry: The set.
        root: The folder that holds the set's own folder.
    """

    entry: PublishedSet
    root: Path

    @property
    def folder(self) -> Path:
        """The set's own folder."""
        return self.root / self.entry.folder

    def missing(self) -> list[str]:
        """Files and folders that the archive brings and that are not there, below `root`."""
        wanted = [(name, Path.is_file) for name in self.entry.files]
        wanted += [(name, Path.is_dir) for name in self.entry.folders]
        return [f"{self.entry.folder}/{name}" for name, there in wanted if not there(self.folder / name)]

    def deciding_files(self) -> list[str]:
        """The files that say what is in the set: its lists, or its images where it has none."""
        images = (f"{name}/{path}" for name in self.entry.folders for path in self.images(name))
        return list(self.entry.files or images)

    def require(self) -> None:
        """Raise PipelineError, with what to download and where to put it, unless all is there."""
        missing = self.missing()
        if not missing:
            return
        entry = self.entry
        download = f"torchvision.datasets.{entry.torchvision}({str(self.root)!r}, download=True)"
        fetch = f'\nOr, on a machine with access: python -c "import torchvision; {download}"'
        raise PipelineError(
            f"{self.root}: {entry.title} is not here as its archive has it. Missing:\n{listed(missing)}\n"
            f"From {entry.page}: {entry.archives}" + (fetch if entry.torchvision else "")
        )

    def lines(self, name: str) -> list[str]:
        """The lines of a text file that hold something, stripped."""
        path = self.folder / name
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise PipelineError(f"{path}: cannot be read as text ({error})") from error
        return [line.strip() for line in lines if line.strip()]

    def fields(self, name: str, count: int) -> list[list[str]]:
        """The lines of a text file, each cut at its first spaces into `count` fields.

        Raises:
            PipelineError: If a line has fewer.
        """
        rows = [line.split(None, count - 1) for line in self.lines(name)]
        short = [row for row in rows if len(row) < count]
        if short:
            raise PipelineError(
                f"{self.folder / name}: expected {count} fields in a line, found {' '.join(short[0])!r}"
            )
        return rows

    def matlab(self, name: str, variable: str) -> Any:
        """A variable of a MATLAB file, as a NumPy array without axes of length one.

        Raises:
            PipelineError: If the file is no MATLAB file or has no such variable.
        """
        from scipy.io import loadmat
        from scipy.io.matlab import MatReadError

        # What SciPy raises for files that are cut off or no MATLAB files at all.
        unreadable = (
            MatReadError,
            ValueError,
            TypeError,
            IndexError,
            OSError,
            NotImplementedError,
            zlib.error,
        )
        path = self.folder / name
        try:
            return loadmat(path, squeeze_me=True)[variable]
        except unreadable as error:
            raise PipelineError(f"{path}: cannot be read as a MATLAB file ({error})") from error
        except KeyError as error:
            raise PipelineError(f"{path}: holds no variable {variable!r}") from error

    def images(self, name: str) -> list[str]:
        """Paths of the images below one of the set's folders, relative to that."""
        return list(image_files(self.folder / name))
