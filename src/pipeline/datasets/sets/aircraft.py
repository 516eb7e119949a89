"""FGVC-Aircraft by variants."""

from pipeline.datasets.sets.archive import Archive, Images, PublishedSet, Row
from pipeline.errors import PipelineError

LISTS = {
    "train": "data/images_variant_train.txt",
    "validation": "data/images_variant_val.txt",
    "test": "data/images_variant_test.txt",
}


def list_images(archive: Archive, counter: str) -> Images:
    """Read the lists of the three parts by variant."""
    variants = archive.lines("data/variants.txt")
    labels = {name: label for label, name in enumerate(variants)}
    rows = []
    for part, name in LISTS.items():
        for image, variant in archive.fields(name, 2):
            if variant not in labels:
                raise PipelineError(f"{archive.folder / name}: {variant!r} is not in variants.txt")
            rows.append(Row(f"data/images/{image}.jpg", part, labels[variant]))
    return Images(rows, variants)


SET = PublishedSet(
    title="FGVC-Aircraft",
    citation="Maji et al., Fine-Grained Visual Classification of Aircraft, arXiv:1306.5151",
    page="https://www.robots.ox.ac.uk/~vgg/data/fgvc-aircraft/",
    archives="unpack fgvc-aircraft-2013b.tar.gz there.",
    folder="fgvc-aircraft-2013b",
    files=("data/variants.txt", *LISTS.values()),
    folders=("data/images",),
    metric="mean_per_class",
    counts={
        "official": {"classes": 100, "train": 3_334, "validation": 3_333, "test": 3_333},
        "uot": {"classes": 100, "train": 3_334, "validation": 3_333, "test": 3_333},
        "core_tuning": {"classes": 100, "train and validation": 6_667, "test": 3_333},
    },
    list_images=list_images,
    torchvision="FGVCAircraft",
)
