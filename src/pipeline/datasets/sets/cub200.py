"""Caltech-UCSD Birds-200-2011."""

from pipeline.datasets.sets.archive import Archive, Images, PublishedSet, Row


def list_images(archive: Archive, counter: str) -> Images:
    """Read the numbered lists: images, classes, and 1 for training or 0 for testing."""
    labels = dict(archive.fields("image_class_labels.txt", 2))
    trained_on = dict(archive.fields("train_test_split.txt", 2))
    names = [name for _, name in archive.fields("classes.txt", 2)]
    rows = [
        Row(f"images/{path}", "train" if trained_on[number] == "1" else "test", int(labels[number]) - 1)
        for number, path in archive.fields("images.txt", 2)
    ]
    return Images(rows, [name.split(".", 1)[-1].replace("_", " ") for name in names])


SET = PublishedSet(
    title="Caltech-UCSD Birds-200-2011",
    citation="Wah et al., The Caltech-UCSD Birds-200-2011 Dataset, CNS-TR-2011-001",
    page="https://www.vision.caltech.edu/datasets/cub_200_2011/",
    archives="unpack CUB_200_2011.tgz there.",
    folder="CUB_200_2011",
    files=("images.txt", "image_class_labels.txt", "train_test_split.txt", "classes.txt"),
    folders=("images",),
    metric="top1",
    counts={
        "official": {"classes": 200, "train": 5_994, "test": 5_794},
        "uot": {"classes": 200, "images": 11_788, "train": 5_994, "test": 5_794},
    },
    list_images=list_images,
)
