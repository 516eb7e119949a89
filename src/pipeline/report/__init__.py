"""One self-contained page of all runs: the answer, what it stands on, and what was run."""
