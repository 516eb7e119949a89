"""SUN397, first official split."""

from pipeline.datasets.sets.archive import Archive, Images, PublishedSet, Row
from pipeline.errors import PipelineError

LISTS = {"train": "Partitions/Training_01.txt", "test": "Partitions/Testing_01.txt"}


def list_images(archive: Archive, counter: str) -> Images:
    """Read the first split; its paths start with the class, such as ``/a/airport_terminal/``."""
    classes = archive.lines("ClassName.txt")
    labels = {name: label for label, name in enumerate(classes)}
    rows = []
    for part, name in LISTS.items():
        for path in archive.lines(name):
            folder = path.rsplit("/", 1)[0]
            if folder not in labels:
                raise PipelineError(f"{archive.folder / name}: {path!r} is of no class in ClassName.txt")
            rows.append(Row(path.lstrip("/"), part, labels[folder]))
    # "/a/abbey": the letter is only a folder.
    return Images(rows, [name[3:] for name in classes])


SET = PublishedSet(
    title="SUN397",
    citation="Xiao et al., SUN Database: Large-scale Scene Recognition from Abbey to Zoo, CVPR 2010",
    page="https://vision.princeton.edu/projects/2010/SUN/",
    archives="unpack SUN397.tar.gz there, and the lists of Partitions.zip in its folder `SUN397/Partitions`.",
    folder="SUN397",
    files=("ClassName.txt", *LISTS.values()),
    folders=(),
    metric="top1",
    counts={
        "official": {"classes": 397, "train": 19_850, "test": 19_850},
        "uot": {"classes": 397, "train": 19_850, "test": 19_850},
    },
    list_images=list_images,
)
