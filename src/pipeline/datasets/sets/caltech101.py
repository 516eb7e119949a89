"""Caltech-101."""

from pipeline.datasets.sets.archive import Archive, Images, PublishedSet, Row

BACKGROUND = "BACKGROUND_Google"


def list_images(archive: Archive, counter: str) -> Images:
    """List the class folders; the Core-tuning paper counts the pictures of no object as a class too."""
    left_out = set() if counter == "core_tuning" else {BACKGROUND}
    paths = [path for path in archive.images("101_ObjectCategories") if path.split("/")[0] not in left_out]
    classes = sorted({path.split("/")[0] for path in paths})
    labels = {name: label for label, name in enumerate(classes)}
    rows = [Row(f"101_ObjectCategories/{path}", None, labels[path.split("/")[0]]) for path in paths]
    return Images(rows, classes)


SET = PublishedSet(
    title="Caltech-101",
    citation="Fei-Fei et al., Learning Generative Visual Models from Few Training Examples, CVPR-W 2004",
    page="https://data.caltech.edu/records/mzrjq-6wc02",
    archives="unpack 101_ObjectCategories.tar.gz, from caltech-101.zip, in a folder `caltech101` there.",
    folder="caltech101",
    files=(),
    folders=("101_ObjectCategories",),
    metric="mean_per_class",
    counts={
        "official": {"classes": 101, "images": 8_677},
        "uot": {"classes": 101, "train": 3_030},
        "core_tuning": {"classes": 102, "train": 3_060, "test": 6_084},
    },
    list_images=list_images,
    train_per_class=30,
    torchvision="Caltech101",
)
