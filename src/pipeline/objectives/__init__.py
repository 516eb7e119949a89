"""What fine-tuning minimises on the target: one module an objective, loaded by its name.

Each has ``build(settings, start: Start) -> Objective``.
"""

from pipeline.objectives.outputs import TargetOutputs
from pipeline.objectives.start import Objective, Start, Tables

__all__ = ["Objective", "Start", "Tables", "TargetOutputs"]
