"""A reader that needs no language model, as the baseline: fuzzy matching, and linear weights fitted on the training rows."""
