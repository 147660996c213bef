"""A user's own labelled rows, under their own column names, answered by any model and scored: `cartlm evaluate`."""
