"""Measures imgstore against what people do without it; docs/benchmarks.md says how to read the table."""
