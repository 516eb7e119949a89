"""Stanford Cars."""

from pipeline.datasets.sets.archive import Archive, Images, PublishedSet, Row

ANNOTATIONS = {"train": "devkit/cars_train_annos.mat", "test": "cars_test_annos_withlabels.mat"}


def list_images(archive: Archive, counter: str) -> Images:
    """Read the annotations of both parts."""
    rows = [
        Row(f"cars_{part}/{car['fname']}", part, int(car["class"]) - 1)
        for part, name in ANNOTATIONS.items()
        for car in archive.matlab(name, "annotations")
    ]
    return Images(rows, [str(name) for name in archive.matlab("devkit/cars_meta.mat", "class_names")])


SET = PublishedSet(
    title="Stanford Cars",
    citation="Krause et al., 3D Object Representations for Fine-Grained Categorization, 3dRR at ICCV 2013",
    page="https://ai.stanford.edu/~jkrause/cars/car_dataset.html",
    archives="unpack cars_train.tgz, cars_test.tgz and car_devkit.tgz in a folder `stanford_cars` there, and "
    "put cars_test_annos_withlabels.mat beside them (the page no longer serves the files; a copy will do).",
    folder="stanford_cars",
    files=(*ANNOTATIONS.values(), "devkit/cars_meta.mat"),
    folders=("cars_train", "cars_test"),
    metric="top1",
    counts={
        "official": {"classes": 196, "train": 8_144, "test": 8_041},
        "uot": {"classes": 196, "images": 16_185, "train": 8_144, "test": 8_041},
        "core_tuning": {"classes": 196, "train": 8_144, "test": 8_041},
    },
    list_images=list_images,
)
