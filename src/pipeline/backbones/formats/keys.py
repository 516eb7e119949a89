"""Keys of one layout to keys of another."""

import re
from collections.abc import Mapping, Sequence

import torch

from pipeline.errors import PipelineError, listed


def rename(
    tensors: Mapping[str, torch.Tensor],
    places: Mapping[str, str],
    left_out: Sequence[str],
    source: str,
    format_name: str,
) -> dict[str, torch.Tensor]:
    """Tensors by their new names.

    Args:
        tensors: By their names in the checkpoint.
        places: New names, with groups such as ``\\1``, by regular expressions that match whole names.
        left_out: Regular expressions of names that the format has beside the encoder.
        source: The checkpoint's name in errors.
        format_name: The format's name in errors.

    Raises:
        PipelineError: If a name is none of the format's, two have one place, or none has any.
    """
    renamed: dict[str, torch.Tensor] = {}
    problems = []
    for key, value in tensors.items():
        if any(re.fullmatch(pattern, key) for pattern in left_out):
            continue
        matches = ((re.fullmatch(pattern, key), place) for pattern, place in places.items())
        name = next((match.expand(place) for match, place in matches if match), None)
        if name is None:
            problems.append(key)
        elif name in renamed:
            problems.append(f"{key}: the place of another key too, {name}")
        else:
            renamed[name] = value
    if problems or not renamed:
        found = listed(problems or list(tensors))
        raise PipelineError(f"{source}: keys that format {format_name} does not have:\n{found}")
    return renamed
