"""Oxford 102 Flowers, in the parts of a competition at Kaggle."""

from pipeline.datasets.sets.archive import Archive, Images, PublishedSet, Row
from pipeline.errors import PipelineError

# The competition's own `test` has no labels: the Core-tuning paper tests on `valid`, in its size.
PARTS = {"train": "train", "valid": "test"}


def list_images(archive: Archive, counter: str) -> Images:
    """List the class folders of both parts; a class is named by its number, from 1, as Oxford counts."""
    from torchvision.datasets import Flowers102

    names: list[str] = Flowers102.classes
    rows = []
    for folder, part in PARTS.items():
        for path in archive.images(folder):
            number = path.split("/")[0]
            if not (number.isdecimal() and 1 <= int(number) <= len(names)):
                raise PipelineError(
                    f"{archive.folder / folder / path}: expected a class folder from 1 to {len(names)}"
                )
            rows.append(Row(f"{folder}/{path}", part, int(number) - 1))
    return Images(rows, names)


SET = PublishedSet(
    title="Oxford 102 Flowers (Kaggle's parts)",
    citation="Nilsback and Zisserman, Automated Flower Classification over a Large Number of Classes, "
    "ICVGIP 2008",
    page="https://www.kaggle.com/c/oxford-102-flower-pytorch",
    archives="unpack oxford-102-flower-pytorch.zip in a folder `oxford-102-flower-pytorch` there.",
    folder="oxford-102-flower-pytorch/flower_data",
    files=(),
    folders=tuple(PARTS),
    metric="top1",
    counts={
        "official": {"classes": 102, "train": 6_552, "test": 818},
        "core_tuning": {"classes": 102, "train": 6_552, "test": 818},
    },
    list_images=list_images,
)
