"""Explain a selection: the plan behind it, its margin, and how stable the chosen set is."""
