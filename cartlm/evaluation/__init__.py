"""Answers to the test rows, scored, with their statistics."""
