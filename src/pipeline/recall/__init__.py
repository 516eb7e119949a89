"""How many of the units of a concept each selection finds (UOT paper, section 4.4)."""
