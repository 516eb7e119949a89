"""K-means into thousands of clusters: time, inertia and memory beside other K-means, one thread each.

Times are of the processor, which others that share the cores change less than those of the clock.
"""

import importlib.util
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from scipy.sparse import csr_matrix
from threadpoolctl import threadpool_limits

# The full size; a share of it has that share of the features and of the clusters.
FEATURES, WIDTH, CLUSTERS = 200_000, 128, 2_000
IMAGENET = 1_281_167
ITERATIONS = 50
# Iterations of the two sizes from which more is extrapolated: too few for either to have converged.
FEW = 10
# A peer whose inertia is within this share of ours is as good.
EQUAL = 0.01


def measure(folder: Path, share: float) -> list[dict[str, Any]]:
    """A row for each peer, and what all of ImageNet would take."""
    count, clusters = round(share * FEATURES), round(share * CLUSTERS)
    names = [name for name in METHODS if name != "faiss" or importlib.util.find_spec("faiss")]
    found = {name: _measured(name, count, clusters, ITERATIONS) for name in names}
    ours = found.pop("ours")
    rows = [_row(ours, peer, name, count, clusters) for name, peer in found.items()]
    return [*rows, _extrapolated(count, clusters)]


def _row(
    ours: dict[str, float], peer: dict[str, float], name: str, count: int, clusters: int
) -> dict[str, Any]:
    inertia = ours["inertia"] / peer["inertia"]
    case = (
        f"{count:,} x {WIDTH}, K {clusters:,}, generated; inertia {inertia:.3f} of the peer's; "
        f"{ours['megabytes']:.0f} MB beside the features, the peer {peer['megabytes']:.0f} MB"
    )
    time_share = ours["seconds"] / peer["seconds"]
    return {
        "benchmark": "K-means",
        "case": case,
        "measured": ours["seconds"],
        "unit": "s of CPU",
        "peer": name,
        "peer_value": peer["seconds"],
        "compared": time_share,
        "limit": "at most 1.25 of the time where inertia is equal, else less inertia",
        "kept": inertia < 1 - EQUAL or (inertia < 1 + EQUAL and time_share <= 1.25),
        "runs": 1,
    }


def _extrapolated(count: int, clusters: int) -> dict[str, Any]:
    """Seconds for all of ImageNet: seeding takes as long, an iteration in proportion to the features."""
    sizes = [count // 2, count]
    seconds = [_measured("ours", size, clusters, FEW)["seconds"] for size in sizes]
    each = (seconds[1] - seconds[0]) / (sizes[1] - sizes[0]) / FEW
    seeding = seconds[1] - FEW * each * sizes[1]
    total = seeding + ITERATIONS * each * IMAGENET
    return {
        "benchmark": "K-means, extrapolated",
        "case": f"{IMAGENET:,} x {WIDTH}, K {clusters:,}, {ITERATIONS} iterations, a line through "
        f"{sizes[0]:,} and {sizes[1]:,} features with {FEW} iterations",
        "measured": total,
        "unit": "s of CPU",
        "peer": f"{sizes[1]:,} features, {FEW} iterations",
        "peer_value": seconds[1],
        "compared": total / seconds[1],
        "limit": "none set",
        "kept": True,
        "runs": 1,
    }


def _measured(method: str, count: int, clusters: int, iterations: int) -> dict[str, float]:
    """In a process of its own, so that its memory is its own."""
    arguments = [method, str(count), str(clusters), str(iterations)]
    done = subprocess.run([sys.executable, __file__, *arguments], check=True, capture_output=True, text=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def _measure(method: str, count: int, clusters: int, iterations: int) -> dict[str, float]:
    features = _generated(count)
    prepared = METHODS[method](clusters, iterations)
    before = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 1e6
    started = time.process_time()
    with threadpool_limits(1):
        found = prepared(features)
    seconds = time.process_time() - started
    megabytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6 - before
    return {"seconds": seconds, "megabytes": megabytes, "inertia": _inertia(_generated(count), found)}


Method = Callable[[np.ndarray], np.ndarray]


def _ours(clusters: int, iterations: int) -> Method:
    import sklearn.cluster  # noqa: F401  # its memory is not the step's

    from pipeline.units.kmeans import cluster

    settings = {"clusters": clusters, "iterations": iterations, "seed": 0}
    return lambda features: cluster(features, settings)


def _scikit_learn(clusters: int, iterations: int) -> Method:
    from sklearn.cluster import KMeans

    return KMeans(clusters, n_init=1, max_iter=iterations, random_state=0).fit_predict


def _mini_batches(clusters: int, iterations: int) -> Method:
    from sklearn.cluster import MiniBatchKMeans

    kmeans = MiniBatchKMeans(clusters, n_init=1, max_iter=iterations, batch_size=5 * clusters, random_state=0)
    return kmeans.fit_predict


def _faiss(clusters: int, iterations: int) -> Method:
    import faiss

    faiss.omp_set_num_threads(1)

    def cluster(features: np.ndarray) -> np.ndarray:
        # By default it takes 256 features a cluster at most; here all, as the others do.
        kmeans = faiss.Kmeans(
            WIDTH, clusters, niter=iterations, seed=0, max_points_per_centroid=len(features)
        )
        kmeans.train(features)
        found: np.ndarray = kmeans.index.search(features, 1)[1][:, 0]
        return found

    return cluster


METHODS: dict[str, Callable[[int, int], Method]] = {
    "ours": _ours,
    "scikit-learn's KMeans": _scikit_learn,
    "scikit-learn's MiniBatchKMeans": _mini_batches,
    "faiss": _faiss,
}


def _generated(count: int) -> np.ndarray:
    """Features of unit length around 1000 centres, float32 (count, WIDTH), some directions wider."""
    random = np.random.default_rng(0)
    centres = random.normal(size=(1000, WIDTH)) / np.sqrt(1 + np.arange(WIDTH) / 8)
    features = np.empty((count, WIDTH), np.float32)
    for first in range(0, count, 16_384):
        block = features[first : first + 16_384]
        noise = random.standard_normal(block.shape, dtype=np.float32)
        block[:] = centres[random.integers(0, 1000, len(block))] + 0.7 * noise
        block /= np.linalg.norm(block, axis=1, keepdims=True)
    return features


def _inertia(features: np.ndarray, found: np.ndarray) -> float:
    """Mean squared distance of features of unit length to the means of their clusters."""
    count = len(features)
    members = csr_matrix((np.ones(count), (found, np.arange(count))))
    sums, sizes = members @ features, np.maximum(np.bincount(found), 1)
    return float(1 - (np.square(sums).sum(axis=1) / sizes).sum() / count)


if __name__ == "__main__":
    name, *numbers = sys.argv[1:]
    print(json.dumps(_measure(name, *map(int, numbers))))
