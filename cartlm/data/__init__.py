"""Rows: sources, lexicons, noise, quality gates, splits."""
