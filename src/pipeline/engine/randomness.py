"""Randomness derived from what it is for, so that it need not be saved.

Order and augmentation depend on (seed, epoch, sample) alone: a resumed run, another batch size or
a prefetching thread sees the same numbers.
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)


def derive(*keys: int | str) -> int:
    """A seed in 0 .. 2**63 - 1 that depends on all keys and on their order."""
    text = "\0".join(str(key) for key in keys)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1


def permutation(count: int, *keys: int | str) -> np.ndarray:
    """A random order of 0 .. count - 1, int64."""
    return np.random.default_rng(derive(*keys)).permutation(count)


def uniforms(samples: np.ndarray, draws: int, *keys: int | str) -> np.ndarray:
    """Independent uniform numbers for each sample, by its number alone.

    A counter-based generator (SplitMix64; Steele, Lea and Flood 2014) hashes (keys, sample, draw).

    Args:
        samples: Sample numbers, int64 (n,).
        draws: How many numbers each sample needs.
        keys: What the numbers are for, such as a seed and an epoch.

    Returns:
        float32 (n, draws), each in [0, 1).
    """
    with np.errstate(over="ignore"):
        counter = samples.astype(np.uint64)[:, None] * np.uint64(draws)
        counter = counter + np.arange(draws, dtype=np.uint64)[None, :]
        state = np.uint64(derive(*keys)) + (counter + np.uint64(1)) * _GOLDEN
        state = (state ^ (state >> np.uint64(30))) * _MIX_1
        state = (state ^ (state >> np.uint64(27))) * _MIX_2
        state = state ^ (state >> np.uint64(31))
    return ((state >> np.uint64(40)).astype(np.float32)) * np.float32(2.0**-24)


@contextmanager
def seeded(*keys: int | str) -> Iterator[None]:
    """Inside, PyTorch's global generator starts from `keys`; afterwards it is as it was.

    Layers draw their first weights from the global generator and cannot be handed another.
    """
    with torch.random.fork_rng(devices=[]):
        torch.random.default_generator.manual_seed(derive(*keys))
        yield
