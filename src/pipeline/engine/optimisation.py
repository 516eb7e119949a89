"""Optimisers and learning-rate schedules, from settings."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn
from torch.optim.adamw import adamw as functional_adamw
from torch.optim.sgd import sgd as functional_sgd


class Optimiser:
    """SGD or AdamW over groups of parameters with learning rates of their own.

    The arithmetic is the functional form in ``torch.optim``. Its classes are not used because they
    import PyTorch's compiler at their first step, three seconds in every job.

    Args:
        settings: The ``optimiser`` section: ``groups`` maps a prefix of a parameter's name in the
            backbone to a ratio of the learning rate; the longest prefix that fits decides.
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
        for name, parameter in backbone.named_parameters():
            if parameter.requires_grad:
                self.groups.setdefault(_ratio(name, settings["groups"]), []).append(parameter)
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


def _ratio(name: str, groups: Mapping[str, float]) -> float:
    fitting = [prefix for prefix in groups if name.startswith(prefix)]
    return groups[max(fitting, key=len)] if fitting else 1.0
