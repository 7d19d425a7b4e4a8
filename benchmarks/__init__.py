"""Measurements of sessionha beside what it replaces: `python -m benchmarks --help`."""
