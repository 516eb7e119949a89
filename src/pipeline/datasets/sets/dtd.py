"""Describable Textures, first official split."""

from pipeline.datasets.sets.archive import Archive, Images, PublishedSet, Row

LISTS = {"train": "labels/train1.txt", "validation": "labels/val1.txt", "test": "labels/test1.txt"}


def list_images(archive: Archive, counter: str) -> Images:
    """Read the first split; a path is its class and the image."""
    paths = [(path, part) for part, name in LISTS.items() for path in archive.lines(name)]
    classes = sorted({path.split("/")[0] for path, _ in paths})
    labels = {name: label for label, name in enumerate(classes)}
    return Images([Row(f"images/{path}", part, labels[path.split("/")[0]]) for path, part in paths], classes)


SET = PublishedSet(
    title="Describable Textures (DTD)",
    citation="Cimpoi et al., Describing Textures in the Wild, CVPR 2014",
    page="https://www.robots.ox.ac.uk/~vgg/data/dtd/",
    archives="unpack dtd-r1.0.1.tar.gz in a folder `dtd` there.",
    folder="dtd/dtd",
    files=tuple(LISTS.values()),
    folders=("images",),
    metric="top1",
    counts={
        "official": {"classes": 47, "train": 1_880, "validation": 1_880, "test": 1_880},
        "uot": {"classes": 47, "train": 1_880, "validation": 1_880, "test": 1_880},
        "core_tuning": {"classes": 47, "train and validation": 3_760, "test": 1_880},
    },
    list_images=list_images,
    torchvision="DTD",
)
