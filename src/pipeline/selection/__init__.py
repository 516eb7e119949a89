"""Rank the source's units for one target; one module a method, loaded by its name.

Each has ``score(source, target, settings) -> Scores``: from the `Units` of both sides to a number for
each source unit, higher for what is better reused. A method with a plan between units and target
classes has ``shares(source, target, settings, rows)``, too, by which a selection is explained.
"""
