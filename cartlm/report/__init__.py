"""Tables from metrics/: the summary of all variants and the block of generated numbers in the README."""
