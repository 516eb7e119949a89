"""Oxford-IIIT Pets."""

from pipeline.datasets.sets.archive import Archive, Erratum, Images, PublishedSet, Row

LISTS = {"train": "annotations/trainval.txt", "test": "annotations/test.txt"}


def list_images(archive: Archive, counter: str) -> Images:
    """Read both lists; their ``trainval`` is one part, and a class is named by its images' names."""
    rows = [
        Row(f"images/{image}.jpg", part, int(label) - 1)
        for part, name in LISTS.items()
        for image, label, _, _ in archive.fields(name, 4)
    ]
    images = {row.label: row.path.removeprefix("images/") for row in rows}
    names = [images[label].rsplit("_", 1)[0].replace("_", " ").title() for label in sorted(images)]
    return Images(rows, names)


SET = PublishedSet(
    title="Oxford-IIIT Pets",
    citation="Parkhi et al., Cats and Dogs, CVPR 2012",
    page="https://www.robots.ox.ac.uk/~vgg/data/pets/",
    archives="unpack images.tar.gz and annotations.tar.gz in a folder `oxford-iiit-pet` there.",
    folder="oxford-iiit-pet",
    files=tuple(LISTS.values()),
    folders=("images",),
    metric="mean_per_class",
    counts={
        "official": {"classes": 37, "train": 3_680, "test": 3_669},
        "uot": {"classes": 37, "train": 3_680, "test": 3_669},
        "core_tuning": {"classes": 37, "train": 3_680, "test": 3_369},
    },
    list_images=list_images,
    errata={
        ("core_tuning", "test"): Erratum(3_669, "3,369 is a misprint: the archive lists 3,669 test images")
    },
    torchvision="OxfordIIITPet",
)
