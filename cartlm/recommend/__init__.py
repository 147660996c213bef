"""Which variant to ship, and what a million messages cost with it: `cartlm recommend` and `cartlm cost`."""
