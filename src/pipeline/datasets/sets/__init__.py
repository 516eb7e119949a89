"""Published image sets, one module each with an entry `SET`, loaded by name.

Standard library only until images are listed, since the Snakefile and the config read entries too.
"""

import importlib

from pipeline.datasets.sets.archive import PublishedSet

NAMES = (
    "aircraft",
    "caltech101",
    "cars",
    "cub200",
    "dogs",
    "dtd",
    "flowers_kaggle",
    "imagenet",
    "imagenet20",
    "pets",
    "sun397",
)


def load_set(name: str) -> PublishedSet:
    """The entry of a set in `NAMES`; no other set's module is loaded."""
    return importlib.import_module(f"pipeline.datasets.sets.{name}").SET
