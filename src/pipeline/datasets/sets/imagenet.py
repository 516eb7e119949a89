"""ImageNet (ILSVRC 2012)."""

from pipeline.datasets.sets.archive import Archive, Images, PublishedSet, Row
from pipeline.errors import PipelineError

META = "ILSVRC2012_devkit_t12/data/meta.mat"
TRUTH = "ILSVRC2012_devkit_t12/data/ILSVRC2012_validation_ground_truth.txt"
# The devkit calls two classes "crane"; the bird is named as lists of ImageNet's classes have it.
NAMES = {"n02012849": "crane, bird"}


def list_images(archive: Archive, counter: str) -> Images:
    """List both parts; labels count the WordNet ids in their order, as trained models do.

    Validation images may lie flat, as the archive has them, or in class folders: their number gives
    their class.
    """
    synsets = [synset for synset in archive.matlab(META, "synsets") if synset["num_children"] == 0]
    ids = {int(synset["ILSVRC2012_ID"]): str(synset["WNID"]) for synset in synsets}
    words = {str(synset["WNID"]): str(synset["words"]) for synset in synsets} | NAMES
    labels = {wnid: label for label, wnid in enumerate(sorted(ids.values()))}
    truth = [labels[ids[int(line)]] for line in archive.lines(TRUTH)]
    rows = []
    for path in archive.images("train"):
        wnid = path.split("/")[0]
        if wnid not in labels:
            raise PipelineError(f"{archive.folder / 'train' / path}: no class has the WordNet id {wnid!r}")
        rows.append(Row(f"train/{path}", "train", labels[wnid]))
    for path in archive.images("val"):
        number = path.rpartition("_")[2].partition(".")[0]
        if not (number.isdecimal() and 1 <= int(number) <= len(truth)):
            raise PipelineError(
                f"{archive.folder / 'val' / path}: expected a name such as ILSVRC2012_val_00000001.JPEG, "
                f"with a number up to {len(truth)}"
            )
        rows.append(Row(f"val/{path}", "validation", truth[int(number) - 1]))
    return Images(rows, [words[wnid] for wnid in labels])


SET = PublishedSet(
    title="ImageNet (ILSVRC 2012)",
    citation="Russakovsky et al., ImageNet Large Scale Visual Recognition Challenge, IJCV 2015",
    page="https://image-net.org/challenges/LSVRC/2012/",
    archives="in a folder `imagenet` there, unpack ILSVRC2012_devkit_t12.tar.gz, ILSVRC2012_img_val.tar in "
    "`val`, and each archive inside ILSVRC2012_img_train.tar in `train/` and its WordNet id.",
    folder="imagenet",
    files=(META, TRUTH),
    folders=("train", "val"),
    metric="top1",
    counts={"official": {"classes": 1_000, "train": 1_281_167, "validation": 50_000}},
    list_images=list_images,
)
