"""Tests by tier: unit, component, pipeline, container; benchmarks apart."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
