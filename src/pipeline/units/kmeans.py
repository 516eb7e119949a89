"""K-means of many features into many clusters, on one thread."""

from collections.abc import Mapping
from typing import Any

import numpy as np

# Features for each cluster among which the first centres are looked for. k-means++ passes over all of
# them once for each centre: over 200,000 of them for 2000 centres that takes longer than all iterations.
SEEDED = 10


def cluster(features: np.ndarray, settings: Mapping[str, Any]) -> np.ndarray:
    """Lloyd's algorithm from k-means++ centres (Arthur & Vassilvitskii 2007) of a random sample.

    Args:
        features: float32 (n, d); overwritten, so that they are not held twice.
        settings: ``clusters`` K <= n, ``iterations`` at most, and ``seed``.

    Returns:
        Cluster of each feature, int32 (n,). Equal seeds give equal clusters; one may stay empty where
        there are fewer different features than clusters.
    """
    from sklearn.cluster import KMeans, kmeans_plusplus
    from threadpoolctl import threadpool_limits

    count = settings["clusters"]
    random = np.random.RandomState(settings["seed"])
    sample = features
    if len(features) > SEEDED * count:
        sample = features[np.sort(random.choice(len(features), SEEDED * count, replace=False))]
    with threadpool_limits(1):  # another number of threads adds in another order
        centres, _ = kmeans_plusplus(sample, count, random_state=random, n_local_trials=1)
        kmeans = KMeans(count, init=centres, n_init=1, max_iter=settings["iterations"], copy_x=False)
        return kmeans.fit_predict(features)
