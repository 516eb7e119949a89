"""From features of any width to two dimensions, or to the sphere."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pipeline.errors import PipelineError


class Placed(NamedTuple):
    """Where features lie.

    Attributes:
        points: float64 (n, 2) in the plane, or (n, 3) on the unit sphere.
        variance: Share of the features' variance that the plane holds, in 0..1; None where it is no
            linear projection.
    """

    points: np.ndarray
    variance: float | None


def project(features: np.ndarray, settings: Mapping[str, Any], source: Path) -> Placed:
    """Bring features into two dimensions, or three of them onto the unit sphere.

    On one thread, so that equal features and settings give equal points.

    Args:
        features: float64 (n, d), finite.
        settings: ``method`` (``tsne``, ``pca`` or ``none``), ``perplexity`` and ``seed``.
        source: Where they are from, for messages.

    Raises:
        PipelineError: If there are too few features, or their width does not suit the method.
    """
    from threadpoolctl import threadpool_limits

    count, width = features.shape
    method = settings["method"]
    if method == "none":
        return Placed(_as_they_are(features, source), None)
    if width < 2:
        raise PipelineError(f"{source}: features of width {width}; {method} needs at least 2")
    with threadpool_limits(1):  # another number of threads adds in another order
        if method == "pca":
            return _principal(features, source)
        if settings["perplexity"] >= count:
            raise PipelineError(
                f"{source}: {count} test images in the map; t-SNE needs more than its perplexity, "
                f"{settings['perplexity']:g}"
            )
        return Placed(_neighbours(features, settings), None)


def _neighbours(features: np.ndarray, settings: Mapping[str, Any]) -> np.ndarray:
    """t-SNE (van der Maaten and Hinton 2008) in scikit-learn's Barnes-Hut form."""
    from sklearn.manifold import TSNE

    tsne = TSNE(2, perplexity=settings["perplexity"], init="pca", random_state=settings["seed"])
    return tsne.fit_transform(features).astype(np.float64)


def _principal(features: np.ndarray, source: Path) -> Placed:
    from sklearn.decomposition import PCA

    if len(features) < 2:
        raise PipelineError(f"{source}: {len(features)} test image in the map; PCA needs at least 2")
    # Exact, and of n x d features costs d^3 at most, where a full SVD would cost n d^2 several times.
    pca = PCA(2, svd_solver="covariance_eigh")
    points = pca.fit_transform(features)
    return Placed(points, float(pca.explained_variance_ratio_.sum()))


def _as_they_are(features: np.ndarray, source: Path) -> np.ndarray:
    """Two dimensions as they are; three divided by their norm, as in Core-tuning's supplement C.1."""
    width = features.shape[1]
    if width == 2:
        return features
    if width == 3:
        norms = np.linalg.norm(features, axis=1, keepdims=True)
        return np.divide(features, norms, out=np.zeros_like(features), where=norms > 0)
    raise PipelineError(
        f"{source}: features of width {width}; feature_map.method none draws 2 or 3 dimensions, "
        "tsne and pca any number"
    )
