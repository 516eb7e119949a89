"""Claims about runs, answered."""
