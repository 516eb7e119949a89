"""Optimisers and learning-rate schedules, from settings."""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.optim.adamw import adamw as functional_adamw
from torch.optim.sgd import sgd as functional_sgd

from pipeline.errors import PipelineError

# A component of a parameter's path that numbers its siblings: ``3`` or ``encoder_layer_3``. The stages
# of a ResNet, ``layer3``, hold such blocks themselves.
NUMBERED = re.compile(r"(.*_)?\d+")


class Optimiser:
    """SGD or AdamW over groups of parameters with learning rates of their own.

    The arithmetic is the functional form in ``torch.optim``. Its classes are not used because they
    import PyTorch's compiler at their first step, three seconds in every job.

    Args:
        settings: The ``optimiser`` section: ``groups`` maps a prefix of a parameter's name in the
            backbone to a ratio of the learning rate; the longest prefix that fits decides.
            ``layer_decay`` multiplies that ratio, see `decay_ratios`.
        backbone: Trained at ``learning_rate``.
        heads: Trained at ``learning_rate * head_ratio``.
        pretrained: Trained parts beside the backbone, at ``learning_rate``.
    """

    def __init__(
        self,
        settings: Mapping[str, Any],
        backbone: nn.Module,
        heads: Iterable[nn.Module],
        pretrained: Iterable[nn.Module] = (),
    ):
        self.settings, self.backbone = settings, backbone
        self.groups: dict[float, list[nn.Parameter]] = {}
        decayed = decay_ratios([name for name, _ in backbone.named_parameters()], settings["layer_decay"])
        for name, parameter in backbone.named_parameters():
            if parameter.requires_grad:
                ratio = _ratio(name, settings["groups"]) * decayed[name]
                self.groups.setdefault(ratio, []).append(parameter)
        for head in heads:
            self.groups.setdefault(settings["head_ratio"], []).extend(head.parameters())
        for part in pretrained:
            self.groups.setdefault(1.0, []).extend(part.parameters())
        self.parameters = [parameter for group in self.groups.values() for parameter in group]
        self.moments: dict[str, list[torch.Tensor]] = {}

    def rate(self, factor: float) -> float:
        """The backbone's learning rate at this factor of the schedule."""
        return float(self.settings["learning_rate"]) * factor

    @torch.no_grad()
    def step(self, factor: float) -> None:
        """Move every parameter that has a gradient, and forget the gradients.

        Args:
            factor: What the schedule multiplies all learning rates by.
        """
        update = self._sgd if self.settings["name"] == "sgd" else self._adamw
        start = 0
        for ratio, parameters in self.groups.items():
            group = range(start, start + len(parameters))
            update([n for n in group if self.parameters[n].grad is not None], self.rate(factor) * ratio)
            start += len(parameters)
        for parameter in self.parameters:
            parameter.grad = None

    def state(self) -> dict[str, torch.Tensor]:
        """Every moment by a name of its own."""
        return {
            f"{name}/{number}": value
            for name, values in self.moments.items()
            for number, value in enumerate(values)
        }

    def load_state(self, state: Mapping[str, torch.Tensor]) -> None:
        """Take up what `state` gave."""
        for key, value in state.items():
            name, number = key.split("/")
            self._moment(name)[int(number)].copy_(value)

    def _moment(self, name: str) -> list[torch.Tensor]:
        if name not in self.moments:
            scalar = name == "step"
            self.moments[name] = [
                torch.zeros(()) if scalar else torch.zeros_like(parameter) for parameter in self.parameters
            ]
        return self.moments[name]

    def _sgd(self, numbers: list[int], rate: float) -> None:
        # From a buffer of zeros the first step gives momentum * 0 + gradient, as torch.optim.SGD's.
        functional_sgd(
            *self._of(numbers),
            self._pick("momentum", numbers),
            weight_decay=self.settings["weight_decay"],
            momentum=self.settings["momentum"],
            lr=rate,
            dampening=0.0,
            nesterov=self.settings["nesterov"] and self.settings["momentum"] > 0,
            maximize=False,
        )

    def _adamw(self, numbers: list[int], rate: float) -> None:
        functional_adamw(
            *self._of(numbers),
            self._pick("mean", numbers),
            self._pick("variance", numbers),
            [],
            self._pick("step", numbers),
            amsgrad=False,
            beta1=self.settings["betas"][0],
            beta2=self.settings["betas"][1],
            lr=rate,
            weight_decay=self.settings["weight_decay"],
            eps=1e-8,
            maximize=False,
        )

    def _of(self, numbers: list[int]) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """Parameters of these numbers, and their gradients."""
        parameters = [self.parameters[number] for number in numbers]
        return [*parameters], [p.grad for p in parameters if p.grad is not None]

    def _pick(self, name: str, numbers: list[int]) -> list[Any]:
        moment = self._moment(name)
        return [moment[number] for number in numbers]


def rate_factor(settings: Mapping[str, Any], step: int, total_steps: int, steps_per_epoch: int) -> float:
    """What every learning rate is multiplied by at optimiser step `step` (from 0) of the budget."""
    warmup = settings["warmup"] * steps_per_epoch
    factor = min(1.0, (step + 1) / warmup) if warmup else 1.0
    progress = step / total_steps
    match settings["name"]:
        case "step":
            passed = sum(progress >= milestone for milestone in settings["milestones"])
            return factor * float(settings["factor"]) ** passed
        case "cosine":
            final = settings["final"]
            return factor * (final + (1 - final) * 0.5 * (1 + math.cos(math.pi * progress)))
        case "poly":
            return factor * (1 - progress) ** float(settings["power"])
        case _:
            return factor * float(settings["gamma"]) ** (step // steps_per_epoch)


def decay_ratios(names: Sequence[str], decay: float) -> dict[str, float]:
    """By parameter, what layer-wise learning-rate decay multiplies its rate by.

    Of B blocks the k-th from the top has ``decay**k``; what comes before the first block, such as a
    stem, has ``decay**(B + 1)``, and what comes after the last, such as a final norm, has 1, as heads
    do (Bao et al. 2022, BEiT; He et al. 2022, MAE, ``util/lr_decay.py``). A block is a parameter's path
    up to its first numbered component: ``layer1.0``, ``encoder.layers.encoder_layer_3``, ``stages.2``.
    What lies between two blocks belongs to the one before it.

    Args:
        names: All parameters of the backbone, in their order.
        decay: Above 0, at most 1; at 1 every ratio is 1, whatever the names.

    Raises:
        PipelineError: If no name has a numbered component.

    Example:
        >>> decay_ratios(["stem.weight", "stages.0.weight", "stages.1.weight", "norm.weight"], 0.5)
        {'stem.weight': 0.125, 'stages.0.weight': 0.25, 'stages.1.weight': 0.5, 'norm.weight': 1.0}
    """
    if decay == 1:
        return dict.fromkeys(names, 1.0)
    found = [_block(name) for name in names]
    blocks = [*dict.fromkeys(block for block in found if block)]
    if not blocks:
        raise PipelineError(
            f"optimiser.layer_decay: found {decay}, and the backbone has no numbered blocks to tell its "
            f"layers apart ({', '.join(names[:3])}, ...); set it to 1"
        )
    last = max(place for place, block in enumerate(found) if block)
    levels: list[int] = []
    for place, block in enumerate(found):
        below = levels[-1] if levels else 0
        levels.append(blocks.index(block) + 1 if block else below if place < last else len(blocks) + 1)
    return {name: decay ** (len(blocks) + 1 - level) for name, level in zip(names, levels, strict=True)}


def _block(name: str) -> str | None:
    """The path of a parameter up to its first numbered module."""
    modules = name.split(".")[:-1]
    places = (place for place, module in enumerate(modules, 1) if NUMBERED.fullmatch(module))
    place = next(places, None)
    return ".".join(modules[:place]) if place else None


def _ratio(name: str, groups: Mapping[str, float]) -> float:
    fitting = [prefix for prefix in groups if name.startswith(prefix)]
    return groups[max(fitting, key=len)] if fitting else 1.0
