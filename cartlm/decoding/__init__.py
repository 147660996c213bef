"""Answers that cannot be invalid: the model chooses among a catalog's legal answers and is asked only where they differ."""
