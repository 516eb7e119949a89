"""ImageNet-20: Imagenette and Imagewoof side by side."""

from pipeline.datasets.sets.archive import Archive, Images, PublishedSet, Row
from pipeline.errors import PipelineError

ARCHIVES = ("imagenette2", "imagewoof2")
# The Core-tuning paper tests on what these archives call validation, in its size.
PARTS = {"train": "train", "val": "test"}
NAMES = {
    "n01440764": "tench",
    "n02086240": "Shih-Tzu",
    "n02087394": "Rhodesian ridgeback",
    "n02088364": "beagle",
    "n02089973": "English foxhound",
    "n02093754": "Border terrier",
    "n02096294": "Australian terrier",
    "n02099601": "golden retriever",
    "n02102040": "English springer",
    "n02105641": "Old English sheepdog",
    "n02111889": "Samoyed",
    "n02115641": "dingo",
    "n02979186": "cassette player",
    "n03000684": "chain saw",
    "n03028079": "church",
    "n03394916": "French horn",
    "n03417042": "garbage truck",
    "n03425413": "gas pump",
    "n03445777": "golf ball",
    "n03888257": "parachute",
}


def list_images(archive: Archive, counter: str) -> Images:
    """List both archives' ``train`` and ``val``; labels count the WordNet ids in their order."""
    labels = {wnid: label for label, wnid in enumerate(NAMES)}
    rows = []
    for name in ARCHIVES:
        for path in archive.images(name):
            part, wnid, *_ = [*path.split("/"), ""]
            if part not in PARTS or wnid not in labels:
                raise PipelineError(
                    f"{archive.folder / name / path}: expected train or val, and a folder of one of the "
                    f"twenty WordNet ids in it"
                )
            rows.append(Row(f"{name}/{path}", PARTS[part], labels[wnid]))
    return Images(rows, [*NAMES.values()])


SET = PublishedSet(
    title="ImageNet-20 (Imagenette and Imagewoof)",
    citation="Howard, The Imagenette and Imagewoof datasets, 2020",
    page="https://github.com/fastai/imagenette",
    archives="unpack imagenette2.tgz and imagewoof2.tgz in a folder `imagenet20` there.",
    folder="imagenet20",
    files=(),
    folders=ARCHIVES,
    metric="top1",
    counts={
        "official": {"classes": 20, "train": 9_469 + 9_025, "test": 3_925 + 3_929},
        "core_tuning": {"classes": 20, "train": 18_494, "test": 7_854},
    },
    list_images=list_images,
)
