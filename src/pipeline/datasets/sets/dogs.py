"""Stanford Dogs."""

from pipeline.datasets.sets.archive import Archive, Images, PublishedSet, Row


def list_images(archive: Archive, counter: str) -> Images:
    """Read the two lists; a class is named by its folder, such as ``n02085620-Chihuahua``."""
    rows = [
        Row(f"Images/{path}", part, int(label) - 1)
        for part in ("train", "test")
        for path, label in zip(
            archive.matlab(f"{part}_list.mat", "file_list"),
            archive.matlab(f"{part}_list.mat", "labels"),
            strict=True,
        )
    ]
    folders = {row.label: row.path.split("/")[1] for row in rows}
    return Images(rows, [folders[label].split("-", 1)[-1].replace("_", " ") for label in sorted(folders)])


SET = PublishedSet(
    title="Stanford Dogs",
    citation="Khosla et al., Novel Dataset for Fine-Grained Image Categorization, FGVC at CVPR 2011",
    page="http://vision.stanford.edu/aditya86/ImageNetDogs/",
    archives="unpack images.tar and lists.tar in a folder `stanford_dogs` there.",
    folder="stanford_dogs",
    files=("train_list.mat", "test_list.mat"),
    folders=("Images",),
    metric="top1",
    counts={
        "official": {"classes": 120, "train": 12_000, "test": 8_580},
        "uot": {"classes": 120, "images": 20_580, "train": 12_000, "test": 8_580},
    },
    list_images=list_images,
)
