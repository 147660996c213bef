"""The finished model in use."""
