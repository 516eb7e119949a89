"""Datasets: from a user's images in one of five formats to a manifest with labels and parts.

One module per format, loaded by name: `image_folder`, `parquet`, `csv`, `published` and
`torchvision`. Each has a function ``read(settings) -> Listing``.
"""
