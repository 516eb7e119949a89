"""Which test images each run gets right, and what a claim makes of them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pipeline.errors import PipelineError
from pipeline.tables import read_table


class RunKeys(NamedTuple):
    """What names a run, as its folders do."""

    backbone: str
    target: str
    selection: str
    recipe: str
    seed: int

    def __str__(self) -> str:
        return "/".join(map(str, self))


def keys_of(claim: Mapping[str, Any], arm: str, pair: Mapping[str, Any]) -> RunKeys:
    """The run of an arm in one of a claim's pairs."""
    return RunKeys(claim["backbone"], pair["target"], pair[arm], claim[arm]["recipe"], pair["seed"])


def run_of(path: Path) -> RunKeys:
    """The run that a file's folders name.

    Raises:
        PipelineError: If they name none.
    """
    names = path.absolute().parts[-6:-1]
    number = names[-1].removeprefix("seed")
    if len(names) < 5 or not number.isdecimal():
        raise PipelineError(
            f"{path}: not named .../backbone/target/selection/recipe/seedN/{path.name}, "
            "so the run is not known"
        )
    backbone, target, selection, recipe, _ = names
    return RunKeys(backbone, target, selection, recipe, int(number))


class Outcomes:
    """Outcomes of runs on test images, read when they are first asked for.

    Args:
        predictions: Files ``.../backbone/target/selection/recipe/seedN/predictions.parquet``.

    Raises:
        PipelineError: If the folders of a file do not name a run.
    """

    def __init__(self, predictions: Sequence[Path]):
        self._paths = {run_of(path): path for path in predictions}
        self._read: dict[RunKeys, tuple[list[str], np.ndarray]] = {}

    def right(self, run: RunKeys) -> tuple[list[str], np.ndarray]:
        """The sample_id of each test image in sorted order, and whether it was right, bool (n,).

        Raises:
            PipelineError: If the run's predictions were not given or have no test image.
        """
        if run not in self._read:
            if run not in self._paths:
                raise PipelineError(f"no predictions were given of the run {run}")
            path = self._paths[run]
            columns = ["sample_id", "split", "label", "prediction"]
            table = read_table("predictions", path, columns, filters=[("split", "=", "test")])
            if not len(table):
                raise PipelineError(f"{path}: no test image; claims are about these")
            table = table.sort_by("sample_id")
            hits = table["label"].to_numpy() == table["prediction"].to_numpy()
            self._read[run] = table["sample_id"].to_pylist(), hits
        return self._read[run]

    def matrix(self, claim: Mapping[str, Any]) -> np.ndarray:
        """What a claim measures, of every draw and test image, in top-1 accuracy.

        The mean is the claim's estimate. For a difference, an entry is the outcome of `better` less that
        of `baseline`, in {-1, 0, 1}. For a trend it is the sum of these over the sizes of a draw with the
        weights of `halving_weights`.

        Args:
            claim: As the step's settings have it.

        Returns:
            float64 (draws, images), images in order of their sample_id.

        Raises:
            PipelineError: If two runs were tested on different images, or all on fewer than two.
        """
        rows = []
        first: RunKeys | None = None
        for pairs in claim["draws"]:
            row: Any = 0.0
            for weight, pair in zip(_weights(claim["kind"], pairs), pairs, strict=True):
                better, baseline = (keys_of(claim, arm, pair) for arm in ("better", "baseline"))
                first = first or better
                for run in (better, baseline):
                    self._require_same_images(first, run)
                row = row + weight * (self.right(better)[1].astype(float) - self.right(baseline)[1])
            rows.append(row)
        matrix = np.array(rows)
        if matrix.shape[1] < 2:
            raise PipelineError(f"claim {claim['claim']!r}: found one test image; expected at least two")
        return matrix

    def means(self, claim: Mapping[str, Any], arm: str) -> dict[int | None, float]:
        """Mean top-1 accuracy of an arm's runs, by the number of training images of each class."""
        found: dict[int | None, list[float]] = {}
        for pair in (pair for pairs in claim["draws"] for pair in pairs):
            found.setdefault(pair["images"], []).append(self.right(keys_of(claim, arm, pair))[1].mean())
        return {images: float(np.mean(values)) for images, values in found.items()}

    def _require_same_images(self, first: RunKeys, run: RunKeys) -> None:
        expected, found = self.right(first)[0], self.right(run)[0]
        if expected != found:
            other = sorted(set(expected) ^ set(found))
            raise PipelineError(
                f"{self._paths[run]}: tested on other images than {self._paths[first]}: {len(found)} and "
                f"{len(expected)}, of which {len(other)} are not in both, such as {other[0]!r}; a claim "
                "needs runs that share their test images"
            )


def halving_weights(images: Sequence[int]) -> np.ndarray:
    """Weights whose sum with gains at these sizes is how much the gain grows with each halving.

    That is the slope of the least-squares line through (log2 images, gain) with its sign changed:
    -(x_i - mean x) / sum_j (x_j - mean x)^2 for x = log2 images. They sum to 0.

    Args:
        images: Training images of each class, not all equal.

    Returns:
        float64, as many.
    """
    centred = np.log2(images) - np.mean(np.log2(images))
    return -centred / np.sum(centred**2)


def _weights(kind: str, pairs: Sequence[Mapping[str, Any]]) -> np.ndarray:
    if kind == "trend":
        return halving_weights([pair["images"] for pair in pairs])
    return np.full(len(pairs), 1 / len(pairs))
